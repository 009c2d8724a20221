"""How a result looks: strength of luma and chroma, and detail."""

import itertools

import numpy as np
import pytest
import small_networks
import torch

import kbnet
from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.look import LUMA, REACH, Look, Mixer, mix
from kbnet.inference.streaming import restore_streamed

STEPS = (0, 0.2, 0.4, 0.6, 0.8, 1)
KINDS = (np.uint8, np.uint16, np.float32)


def pair(dtype=np.uint8, shape=(40, 56, 3), seed=0):
    """A noisy image and a smooth one."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0.3, 0.7, shape[1])[None, :, None] * np.ones(shape)
    noisy = smooth + rng.normal(0, 0.08, shape)
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    return tuple((np.rint(one * top) if top > 1 else one).astype(dtype) for one in (noisy, smooth))


def looked(before, after, *settings):
    result = after.copy()
    mix(before, result, Look(*settings))
    return result


def luma(image):
    return image.astype(np.float64) @ LUMA


def chroma(image):
    return image.astype(np.float64) - luma(image)[..., None]


def change(part, before, after):
    return np.sqrt(np.mean((part(after) - part(before)) ** 2))


def grows(values, by=0.05):
    return all(after > before + by * values[-1] for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("dtype", KINDS)
def test_strength_moves_the_luma_and_leaves_the_chroma(dtype):
    before, after = pair(dtype)
    results = [looked(before, after, strength, 0) for strength in STEPS]
    assert grows([change(luma, before, result) for result in results])
    level = 1 if dtype != np.float32 else 1e-6
    assert max(np.abs(chroma(result) - chroma(before)).max() for result in results) <= level


@pytest.mark.parametrize("dtype", KINDS)
def test_colour_strength_moves_the_chroma_and_leaves_the_luma(dtype):
    before, after = pair(dtype)
    results = [looked(before, after, 0, strength) for strength in STEPS]
    assert grows([change(chroma, before, result) for result in results])
    level = 0.6 if dtype != np.float32 else 1e-6
    assert max(np.abs(luma(result) - luma(before)).max() for result in results) <= level


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_detail_brings_back_fine_structure(dtype, channels):
    before, after = pair(dtype, (40, 56, channels))
    part = luma if channels == 3 else lambda image: image[..., 0].astype(np.float64)
    results = [looked(before, after, 1, 1, detail) for detail in STEPS]
    away = [change(part, before, result) for result in results]
    assert grows(away[::-1])
    assert away[-1] < 0.3 * away[0]  # of white noise, little is below the band
    if channels == 3:
        assert max(change(chroma, after, result) for result in results) <= (1 if dtype != np.float32 else 1e-6)


def test_detail_keeps_coarse_changes():
    """A change of exposure has no high band, so nothing of it comes back, at the borders either."""
    before = np.full((30, 31, 3), 100, np.uint8)
    after = np.full_like(before, 140)
    assert np.array_equal(looked(before, after, 1, 1, 1), after)


def test_the_ends_are_the_input_and_the_restored_image():
    for dtype in KINDS:
        before, after = pair(dtype)
        assert np.array_equal(looked(before, after, 1, 1, 0), after)
        assert np.array_equal(looked(before, after, 0, 0, 0), before)
        assert np.array_equal(looked(before, after, 0, None, 1), before)
        assert np.allclose(looked(before, after, 1, None), looked(before, after, 1, 1))


def test_equal_strengths_blend_every_value():
    before, after = pair(np.uint16)
    wanted = np.rint(before + 0.3 * (after.astype(np.float64) - before))
    assert np.array_equal(looked(before, after, 0.3), wanted)


@pytest.mark.parametrize("height", [1, 3, 4, 5, 8, 9, 64, 65, 71])
@pytest.mark.parametrize("lines", [1, 2, 7, 64])
def test_rows_in_pieces_are_the_same_as_the_whole(height, lines):
    before, after = pair(np.float32, (height, 17, 3), seed=height)
    look = Look(0.9, 0.4, 0.7)
    whole = after.copy()
    mix(before, whole, look)
    mixer = Mixer(look)
    parts = [mixer.push(before[top : top + lines], after[top : top + lines]) for top in range(0, height, lines)]
    parts.append(mixer.finish())
    assert np.allclose(np.concatenate([part for part in parts if len(part)]), whole, atol=1e-6)
    # against the definition, with mirrored borders
    change = (after - before) @ np.array(LUMA)
    taps = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1]) / 256
    low = np.pad(change, REACH, "symmetric")
    low = np.apply_along_axis(np.convolve, 0, low, taps, "valid")
    low = np.apply_along_axis(np.convolve, 1, low, taps, "valid")
    mixed = change - 0.7 * (change - low)
    wanted = before + 0.9 * mixed[..., None] + 0.4 * (after - before - change[..., None])
    assert np.allclose(whole, wanted, atol=1e-5)


@pytest.mark.parametrize("settings", [(-0.1,), (1.1,), (1, 2), (1, -1), (1, 1, 1.5), (1, 1, float("nan"))])
def test_settings_outside_0_to_1_are_refused(settings):
    with pytest.raises(InvalidInputError, match="from 0 to 1, got"):
        Look(*settings)


@pytest.fixture(scope="module")
def restorer():
    return kbnet.Restorer(small_networks.kbnet_s(), tile=64, overlap=16)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, torch.float32])
def test_a_restorer_applies_the_look_to_its_result(restorer, kind):
    if kind is torch.float32:
        image = torch.from_numpy(pair(np.float32, (80, 90, 3))[0]).permute(2, 0, 1)[None]
        arrays = lambda one: one[0].permute(1, 2, 0).numpy()  # noqa: E731
    else:
        image, arrays = pair(kind, (80, 90, 3))[0], np.asarray
    full = restorer(image)
    result = restorer(image, strength=0.5, color_strength=1, detail=0.3)
    wanted = looked(arrays(image), arrays(full), 0.5, 1, 0.3)
    assert np.allclose(arrays(result), wanted, atol=1e-6)
    (together,) = restorer.together([image], strength=0.5, color_strength=1, detail=0.3)
    assert np.allclose(arrays(together), wanted, atol=1e-6)


def test_a_restorer_refuses_settings_before_it_works(restorer):
    with pytest.raises(InvalidInputError, match="expected a detail from 0 to 1, got 2"):
        restorer(pair()[0], detail=2)
    with pytest.raises(InvalidInputError, match="expected a color strength from 0 to 1, got -1"):
        kbnet.restore(pair()[0], color_strength=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_picture_restored_by_rows_looks_the_same(tmp_path, restorer, channels, alpha):
    pixels = pair(np.uint8, (150, 90, channels))[0]
    pixels = pixels if channels == 3 else pixels[..., 0]
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    write_photo(Photo(pixels, alpha=pixels[..., 0] if alpha and channels == 3 else None), source)
    settings = {"strength": 0.8, "color_strength": 0.3, "detail": 0.6}
    restore_streamed(restorer, source, target, **settings)
    result = read_photo(target)
    assert np.array_equal(result.pixels, restorer(pixels, **settings))
    if result.alpha is not None:
        assert np.array_equal(result.alpha, pixels[..., 0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
