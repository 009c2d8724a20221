"""Rain: streaks as asked for, light that only adds, and the published looks."""

import math

import pytest
import torch
from degradation_images import generator, psnr, scene

from kbnet.degradations.rain import (
    HEAVY,
    LIGHT,
    MAX_STREAK,
    SHORT,
    RainLook,
    _drops,
    add_rain,
    add_veil,
    random_rain,
    streak_kernel,
    streak_layer,
)
from kbnet.errors import InvalidInputError


def axes(kernel):
    """Principal deviations, long and short, and the angle of the long one from the vertical."""
    side = kernel.shape[0] // 2
    position = torch.arange(-side, side + 1).double()
    weight = kernel.double() / kernel.sum()
    down, across = (weight.sum(1) * position**2).sum(), (weight.sum(0) * position**2).sum()
    both = (weight * position[:, None] * position).sum()
    values, vectors = torch.linalg.eigh(torch.tensor([[down, both], [both, across]]))
    long = vectors[:, 1]
    return float(values[1].sqrt()), float(values[0].clamp_min(0).sqrt()), math.degrees(math.atan2(long[1], long[0]))


@pytest.mark.parametrize("angle", [-60, -10, 0, 25, 90])
@pytest.mark.parametrize("soft", [False, True])
def test_a_streak_has_its_length_width_and_angle(angle, soft):
    kernel = streak_kernel(40, 3, math.radians(angle), soft=soft)
    long, short, found = axes(kernel)
    assert long * math.sqrt(12) == pytest.approx(40, rel=0.25)
    assert short * 2.355 == pytest.approx(3, rel=0.1)
    assert abs((found - angle + 90) % 180 - 90) < 1
    assert 0 <= kernel.min() < kernel.max() <= 1
    assert kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] == pytest.approx(1, abs=0.01)


def test_a_thin_streak_is_faint():
    assert streak_kernel(20, 0.5, 0.1).max() == pytest.approx(0.5, abs=0.05)
    for wrong in ((0, 1), (MAX_STREAK + 1, 1), (10, 0), (float("nan"), 1)):
        with pytest.raises(InvalidInputError, match="expected a streak"):
            streak_kernel(*wrong, 0.0)


@pytest.mark.parametrize("cover", [0.05, 0.5, 3.0])
def test_a_layer_covers_what_was_asked_for_everywhere(cover):
    kernels = [streak_kernel(length, 1.5, 0.3) for length in (10, 25)]
    layers = torch.stack([streak_layer(40, 52, kernels, cover, generator(seed), contrast=0.0) for seed in range(60)])
    assert layers.mean() == pytest.approx(cover, rel=0.12)
    assert layers.min() >= 0
    # no darker border: drops from outside the picture reach into it
    border = torch.cat([layers[:, 0], layers[:, -1]], 1).mean()
    assert border == pytest.approx(cover, rel=0.3)


def test_a_layer_is_its_drops_convolved_and_wraps_around_no_edge():
    kernel = torch.rand(21, 21, generator=generator(9))
    layer = streak_layer(17, 30, [kernel], 0.5, generator(3), contrast=0.7)
    source = generator(3)
    expected = 0.5 / float(kernel.sum()) * 37 * 50
    count = round(expected + math.sqrt(expected) * float(torch.randn((), generator=source)))
    drops = _drops(37, 50, count, 0.7, source)
    assert 0.3 * count <= drops.sum() <= count
    direct = torch.nn.functional.conv2d(drops[None, None], kernel.flip(0, 1)[None, None])[0, 0]
    assert direct.max() > 0.5
    assert torch.allclose(layer, direct, atol=1e-4)
    assert streak_layer(30, 30, [kernel], 0.0, generator()).abs().max() < 1e-6


@pytest.mark.parametrize("screen", [False, True])
def test_rain_and_veil_only_brighten(screen):
    clean = scene()
    streaks = 2 * torch.rand(64, 72, generator=generator())
    rainy = add_rain(clean, streaks, screen=screen)
    veiled = add_veil(rainy, streaks.clamp(0, 1), 0.8)
    assert (rainy >= clean).all()
    assert (veiled >= rainy).all()
    assert veiled.max() <= 1
    assert torch.equal(add_rain(clean, torch.zeros(64, 72), screen=screen), clean)
    assert torch.equal(add_veil(clean, torch.zeros(64, 72), 0.8), clean)


def test_added_light_is_the_same_on_every_shade_and_screened_light_fades_on_bright_ones():
    shades = torch.tensor([0.1, 0.5]).view(1, 1, 2)
    light = torch.full((1, 2), 0.3)
    assert (add_rain(shades, light) - shades).flatten().tolist() == pytest.approx([0.3, 0.3])
    assert (add_rain(shades, light, screen=True) - shades).flatten().tolist() == pytest.approx([0.27, 0.15])


@pytest.mark.parametrize("look", [LIGHT, HEAVY, SHORT])
def test_every_look_only_brightens_and_is_gray(look):
    clean = scene(height=96, width=96)
    for seed in range(5):
        rainy = random_rain(clean, look, generator(seed))
        assert (rainy >= clean - 1e-6).all()
        assert rainy.max() <= 1
    assert torch.allclose(random_rain(clean, look, generator(), severity=0.0), clean, atol=1e-6)


def test_light_rain_is_that_of_rain100l_and_heavy_rain_that_of_rain100h():
    # the sets' inputs have 26.2 and 13.8 dB on photographs; this picture is not one, hence wide bounds
    clean = scene(height=128, width=128) * 0.6
    light, heavy, short = (
        sum(psnr(random_rain(clean, look, generator(seed)), clean) for seed in range(16)) / 16
        for look in (LIGHT, HEAVY, SHORT)
    )
    assert 22 < light < 29
    assert 10 < heavy < 17
    assert heavy < short < light


def test_looks_are_checked_like_degradations():
    with pytest.raises(InvalidInputError, match="cover"):
        RainLook(cover=(0, 1))
    assert RainLook(layers=2).layers == (2, 2)
