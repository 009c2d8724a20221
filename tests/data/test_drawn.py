"""Drawn pictures: the same for the same seed, and of more kinds than one."""

import numpy as np
import pytest

from kbnet.data.drawn import draw_pictures


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 65])
def test_pictures_have_the_form_of_decoded_photos(channels, side):
    pictures = draw_pictures(5, side, channels)
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.shape == ((side, side) if channels == 1 else (side, side, 3))


def test_the_seed_decides_and_no_two_are_alike():
    first, again, other = draw_pictures(20, 64, 3), draw_pictures(20, 64, 3), draw_pictures(20, 64, 3, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({picture.tobytes() for picture in first}) == 20


def test_clipped_values_and_pixel_sized_detail_occur():
    stack = np.stack(draw_pictures(40, 128, 3))
    assert 0.1 < np.mean(stack == 0) < 0.8
    assert 0.1 < np.mean(stack == 255) < 0.8
    steps = np.abs(np.diff(stack.astype(int), axis=2)).max(axis=3)
    assert 0.02 < np.mean(steps > 100) < 0.5
