"""Tiles as the authors' scripts cut them: everything covered once, and each tile as large as theirs."""

import numpy as np
import pytest

from kbnet.evaluation.published_tiles import in_published_tiles


@pytest.mark.parametrize("shape", [(1120, 1680, 3), (1024, 1024), (300, 1500), (1025, 900), (2000, 1100)])
def test_what_returns_its_input_gives_the_image_back(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    given = []

    def restore(tile):
        given.append(tile.shape)
        return tile.copy()

    assert np.array_equal(in_published_tiles(restore, image), image)
    assert {shape[:2] for shape in given} == {(1024, 1024)}


def test_dpdds_pictures_take_as_many_tiles_as_published():
    count = []
    in_published_tiles(lambda tile: count.append(1) or tile, np.zeros((1120, 1680), np.float32))
    # 1248 and 1808 with their borders: starts at 0 and 224, and at 0 and 784
    assert len(count) == 4


def test_the_outer_64_pixels_of_a_tiles_output_are_not_used():
    def restore(tile):
        output = np.full_like(tile, np.nan)
        output[64:-64, 64:-64] = 1
        return output

    assert np.array_equal(in_published_tiles(restore, np.zeros((1120, 1680), np.float32)), np.ones((1120, 1680)))
