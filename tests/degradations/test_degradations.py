"""What holds for every kind: one generator decides, the input stays, any size goes, contradictions are refused."""

import pytest
import torch
from degradation_images import generator, psnr, scene

from kbnet.degradations import (
    DEGRADATIONS,
    Blur,
    Defocus,
    Degradation,
    GaussianNoise,
    Motion,
    create_degradation,
)
from kbnet.errors import InvalidInputError

KINDS = sorted(DEGRADATIONS)
SIZES = [(1, 1), (1, 9), (7, 1), (2, 3), (5, 4), (17, 40), (33, 16)]
MILDEST = {
    "gaussian": {"sigma": 0},
    "camera-noise": {"shot": 1e-7, "jpeg_share": 0},
    "photo-noise": {"camera": {"shot": 1e-7, "jpeg_share": 0}, "gaussian": {"sigma": 0}, "jpeg_share": 0},
    "raw-noise": {"shot": 1e-6},
    "rain": {"severity": 0, "jpeg_share": 0},
    "defocus": {"radius": 0, "highlight_gain": 1},
    "motion": {"length": 0, "highlight_gain": 1},
    "jpeg": {"quality": 100, "subsampled_share": 0},
    "blur": {
        "sigma": 0,
        "jpeg_share": 0,
        "motion": {"length": 0, "highlight_gain": 1},
        "defocus": {"radius": 0, "highlight_gain": 1},
    },
}
# From mild to strong; each level's settings leave nothing to chance that would blur the order.
SEVERITIES = {
    "gaussian": [{"sigma": sigma} for sigma in (2, 10, 50)],
    "camera-noise": [{"shot": shot, "jpeg_share": 0} for shot in (1e-5, 1e-3, 3e-2)],
    "photo-noise": [
        {"camera": {"shot": shot, "jpeg_share": 0}, "gaussian": {"sigma": sigma}, "jpeg_share": 0}
        for shot, sigma in ((1e-5, 2), (1e-3, 10), (3e-2, 50))
    ],
    "raw-noise": [{"shot": shot} for shot in (1e-5, 1e-3, 3e-2)],
    "rain": [{"severity": severity, "jpeg_share": 0} for severity in (0.2, 0.6, 1.5)],
    "defocus": [{"radius": radius, "varying_share": 0} for radius in (0.7, 2, 6)],
    "motion": [{"length": length} for length in (1, 6, 30)],
    "jpeg": [{"quality": quality} for quality in (98, 60, 10)],
    "blur": [{"motion": {"length": r * 4}, "defocus": {"radius": r}, "noise_share": 0} for r in (0.3, 1.5, 6)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_both_numbers_of_channels(kind, channels, size):
    for seed in range(6):
        degraded = create_degradation(kind)(scene(channels, *size), generator(seed))
        assert (degraded.shape, degraded.dtype) == ((channels, *size), torch.float32)
        assert torch.isfinite(degraded).all()
        assert degraded.is_contiguous()


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides_and_the_input_is_left_alone(kind):
    degrade, clean = create_degradation(kind), scene()
    before, state = clean.clone(), torch.get_rng_state()
    seen = [degrade(clean, generator(seed)) for seed in range(8)]
    torch.manual_seed(99)
    assert all(torch.equal(degrade(clean, generator(seed)), seen[seed]) for seed in range(8))
    assert torch.equal(clean, before)
    assert len({tuple(image.flatten()[:2000].tolist()) for image in seen}) >= 7
    torch.set_rng_state(state)
    degrade(clean, generator())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_goes_on_gives_another_result(kind):
    degrade, clean, source = create_degradation(kind), scene(), generator()
    assert not torch.equal(degrade(clean, source), degrade(clean, source))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gaussian", "photo-noise"}))
def test_values_are_those_of_an_8_bit_file(kind):
    for seed in range(10):
        levels = create_degradation(kind)(scene(), generator(seed)) * 255
        assert 0 <= levels.min() <= levels.max() <= 255
        assert torch.allclose(levels, levels.round(), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mildest_setting_leaves_the_image_nearly_as_it_is(kind):
    degrade = create_degradation(kind, **MILDEST[kind])
    clean = scene()
    assert min(psnr(degrade(clean, generator(seed)), clean) for seed in range(8)) > 40


@pytest.mark.parametrize("kind", KINDS)
def test_psnr_falls_with_severity(kind):
    clean = scene()
    means = []
    for settings in SEVERITIES[kind]:
        degrade = create_degradation(kind, **settings)
        means.append(sum(psnr(degrade(clean, generator(seed)), clean) for seed in range(12)) / 12)
    assert means[0] > means[1] + 1 > means[2] + 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_clean_share_of_calls_returns_a_copy_of_the_image(kind):
    clean = scene(height=16, width=16)
    always = create_degradation(kind, clean_share=1)(clean, generator())
    assert torch.equal(always, clean)
    assert always.data_ptr() != clean.data_ptr()
    degrade, source = create_degradation("gaussian", clean_share=0.3, sigma=20), generator()
    untouched = sum(torch.equal(degrade(clean, source), clean) for _ in range(500))
    assert 110 < untouched < 190


def test_every_kind_is_a_documented_degradation():
    assert set(KINDS) == {
        "gaussian",
        "camera-noise",
        "photo-noise",
        "raw-noise",
        "rain",
        "defocus",
        "motion",
        "jpeg",
        "blur",
    }
    for kind in DEGRADATIONS.values():
        assert issubclass(kind, Degradation)
        for name, one in kind.__dataclass_fields__.items():
            if one.init and name != "clean_share":
                assert f"{name}" in kind.__doc__, f"{kind.__name__}.{name} is not documented"


def test_one_number_or_a_list_stands_for_a_range():
    assert GaussianNoise(sigma=25).sigma == (25.0, 25.0)
    assert create_degradation("gaussian", sigma=[0, 55]) == GaussianNoise(sigma=(0, 55))
    nested = create_degradation("blur", defocus={"radius": [1, 2]})
    assert nested == Blur(defocus=Defocus(radius=(1, 2)))
    with pytest.raises(AttributeError):
        nested.sigma = (0, 1)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("snow", {}, "one of gaussian, camera-noise, photo-noise"),
        ("gaussian", {"sigm": 3}, "no field 'sigm'; its fields are clean_share, sigma"),
        ("gaussian", {"sigma": (30, 10)}, "sigma with 0 <= low <= high <= 255"),
        ("gaussian", {"sigma": (-1, 10)}, "sigma"),
        ("gaussian", {"sigma": "25"}, "a range of two numbers, got '25'"),
        ("gaussian", {"sigma": (0, 1, 2)}, "a range of two numbers"),
        ("gaussian", {"sigma": (0, float("nan"))}, "a range of two numbers"),
        ("gaussian", {"sigma": True}, "a range of two numbers"),
        ("gaussian", {"clean_share": 1.5}, "share from 0 to 1"),
        ("gaussian", {"clean_share": (0, 1)}, "share from 0 to 1"),
        ("camera-noise", {"shot": (0, 1e-3)}, "shot"),
        ("camera-noise", {"jpeg_quality": (80, 101)}, "jpeg_quality"),
        ("jpeg", {"quality": (50.5, 60)}, "whole numbers in quality"),
        ("rain", {"light_share": 0, "heavy_share": 0, "short_share": 0}, "heavy_share or short_share above 0"),
        ("defocus", {"blades": (2, 5)}, "blades"),
        ("motion", {"kernels_share": 0.5}, "both kernels and a kernels_share"),
        ("motion", {"kernels": "nowhere"}, "both kernels and a kernels_share"),
        ("motion", {"kernels": "nowhere", "kernels_share": 1}, "nowhere: No such file"),
        ("photo-noise", {"camera": {"shots": 3}}, "CameraNoise has no field 'shots'"),
        ("photo-noise", {"gaussian": 3}, "table of settings for gaussian"),
        ("blur", {"motion": {"lenght": 3}}, "Motion has no field 'lenght'"),
        ("blur", {"defocus": 3}, "table of settings for defocus"),
        ("blur", {"defocus": Motion()}, "table of settings for defocus"),
    ],
)
def test_contradictions_are_refused_when_made(kind, settings, message):
    with pytest.raises(InvalidInputError, match=message):
        create_degradation(kind, **settings)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(8, 8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(2, 8, 8),
        torch.zeros(3, 0, 8),
        torch.zeros(3, 8, 8, dtype=torch.float64),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(image):
    with pytest.raises(InvalidInputError, match=r"float32 image \[C,H,W\] with 1 or 3 channels"):
        GaussianNoise()(image, generator())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("defocus", {"radius": [5, 8], "layer_share": 0, "polygon_share": 1, "blades": 3}),
        ("defocus", {"radius": [5, 8], "layer_share": 0, "polygon_share": 0}),
        ("motion", {"length": [10, 20], "object_share": 0}),
        ("blur", {"noise_share": 0, "jpeg_share": 0, "defocus": {"layer_share": 0}, "motion": {"object_share": 0}}),
    ],
)
def test_nothing_reaches_farther_than_the_margin(kind, settings):
    degrade = create_degradation(kind, **settings)
    half, margin = 48, degrade.margin
    assert 0 < margin < half
    point = torch.zeros(1, 2 * half + 1, 2 * half + 1)
    point[:, half, half] = 1
    reach = []
    for seed in range(40):
        lit = degrade(point, generator(seed))[0].nonzero()
        reach.append(int((lit - half).abs().max()))
    assert max(reach) <= margin
    assert max(reach) >= margin / 3
    assert create_degradation("rain").margin == create_degradation("jpeg").margin == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_black_white_and_pure_colours_stay_numbers(kind, channels):
    levels = torch.tensor([0.0, 1.0])
    corners = torch.cartesian_prod(levels, levels, levels).T[:channels, :, None].expand(channels, 8, 8)
    degrade = create_degradation(kind)
    for seed in range(60):
        assert torch.isfinite(degrade(corners, generator(seed))).all()
