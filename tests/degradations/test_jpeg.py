"""JPEG in memory: the same as files, quality and chroma as asked, blocks where the phase puts them."""

import numpy as np
import pytest
import torch
from degradation_images import generator, psnr, scene

from kbnet.degradations import Jpeg
from kbnet.degradations.jpeg import jpeg
from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, compress_jpeg, encode, read_photo


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 75, 95])
def test_it_is_what_a_file_would_hold(channels, quality):
    image = scene(channels)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    pixels = pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels)
    file = encode(Photo(pixels, format="jpeg"), quality=quality)
    assert np.array_equal(compress_jpeg(pixels, quality), read_photo(file).pixels)
    ours = (jpeg(image, quality) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(ours.squeeze(-1) if channels == 1 else ours, read_photo(file).pixels)


def test_colour_detail_goes_with_subsampling_and_brightness_stays():
    image = torch.rand(3, 64, 64, generator=generator())
    full, half = (jpeg(image, 95, subsample_chroma=subsample) for subsample in (False, True))
    assert psnr(full, image) > psnr(half, image) + 5
    gray = image[:1].expand(3, -1, -1)
    assert psnr(jpeg(gray, 95, subsample_chroma=True), gray) > 30


def test_blocks_lie_where_the_phase_says():
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 64, 64)
    for phase in (0, 3, 8, 13):
        steps = jpeg(ramp, 2, phase=(0, phase)).diff(dim=2).abs().mean((0, 1))
        edges = {int(i + 1 + phase) % 8 for i in (steps > 3 * steps.median() + 1e-3).nonzero().flatten()}
        assert edges == {0}


@pytest.mark.parametrize("quality", [0, 101])
def test_other_qualities_are_refused(quality):
    with pytest.raises(InvalidInputError, match="from 1 to 100"):
        jpeg(scene(), quality)


def test_other_pixels_are_refused():
    with pytest.raises(InvalidInputError, match="uint8"):
        compress_jpeg(np.zeros((4, 4), np.uint16), 90)


def test_qualities_are_drawn_from_the_whole_range():
    clean = scene()
    results = {
        tuple(Jpeg(quality=(30, 31), subsampled_share=0)(clean, generator(seed))[0, 0].tolist()) for seed in range(40)
    }
    assert len(results) > 20  # by the phase
    worst, best = (jpeg(clean, quality) for quality in (5, 95))
    scores = [psnr(Jpeg(quality=(5, 95))(clean, generator(seed)), clean) for seed in range(40)]
    assert psnr(worst, clean) - 3 < min(scores) < max(scores) < psnr(best, clean) + 3
    assert max(scores) - min(scores) > 8
