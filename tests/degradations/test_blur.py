"""Blur by kernels and layers, and defocus: constants stay, nothing bleeds, radii follow their maps."""

import math

import pytest
import torch
from degradation_images import generator, psnr, scene

from kbnet.degradations import Blur, Defocus
from kbnet.degradations.blur import (
    blur,
    convolve,
    fast_length,
    layered_blur,
    mirrored,
    region_weights,
    to_linear,
    to_srgb,
    varying_blur,
)
from kbnet.degradations.defocus import defocus, lit, object_mask, radius_stack
from kbnet.degradations.kernels import disk_kernel
from kbnet.errors import InvalidInputError


def reference_convolution(image, kernel):
    rows, columns = (side // 2 for side in kernel.shape)
    padded = mirrored(image, rows, columns)
    height, width = image.shape[1:]
    result = torch.zeros(image.shape, dtype=torch.float64)
    for y in range(kernel.shape[0]):
        for x in range(kernel.shape[1]):
            top, left = 2 * rows - y, 2 * columns - x
            result += kernel[y, x].double() * padded[:, top : top + height, left : left + width].double()
    return result


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 4), (16, 23)])
@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 5), (9, 1), (13, 13)])
def test_convolution_is_that_of_the_definition(size, kernel_size):
    image = scene(3, *size)
    kernels = torch.rand(2, *kernel_size, generator=generator())
    fast = convolve(image, kernels)
    for kernel, result in zip(kernels, fast, strict=True):
        expected = reference_convolution(image, kernel)
        assert (result - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


def test_an_off_centre_kernel_moves_the_image_the_right_way():
    kernel = torch.zeros(1, 5, 3)
    kernel[0, 4, 0] = 1  # two down, one to the left
    image = scene()
    assert torch.allclose(convolve(image, kernel)[0][:, 2:, :-1], image[:, :-2, 1:], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("radius", [0.4, 3.3, 9.0])
def test_constant_images_come_back(value, radius):
    flat = torch.full((3, 21, 34), value)
    assert (blur(flat, disk_kernel(radius), linear=False) - flat).abs().max() <= 2e-7
    assert (blur(flat, disk_kernel(radius)) - flat).abs().max() < 1e-6
    assert (defocus(flat, torch.rand(21, 34, generator=generator()) * radius) - flat).abs().max() < 1e-6


def test_kernels_of_even_sides_are_refused():
    for shape in ((3, 3), (1, 2, 3), (1, 3, 4), (0, 3, 3)):
        with pytest.raises(InvalidInputError, match="odd sides"):
            convolve(scene(), torch.ones(shape))


def test_borders_are_mirrored_also_beyond_the_image():
    row = torch.tensor([[[1.0, 2, 3]]])
    assert mirrored(row, 0, 4).flatten().tolist() == [3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1]
    assert mirrored(row, 2, 0).shape == (1, 5, 3)


def test_fast_lengths_have_small_factors():
    assert [fast_length(n) for n in (1, 7, 121, 128, 131)] == [1, 8, 125, 128, 135]


def test_linear_light_is_undone_and_follows_the_standard():
    x = torch.linspace(0, 1, 1001)
    assert torch.allclose(to_srgb(to_linear(x)), x, atol=1e-6)
    assert to_linear(torch.tensor([0.0, 0.04045, 0.5, 1.0])).tolist() == pytest.approx(
        [0, 0.0031308, 0.2140411, 1], abs=1e-6
    )


def test_in_linear_light_a_bright_point_outshines_the_dark():
    image = torch.zeros(1, 31, 31)
    image[:, 15, 15] = 1
    kernel = disk_kernel(4)
    assert blur(image, kernel).max() > 5 * blur(image, kernel, linear=False).max()
    assert lit(image, 3.0).max() == pytest.approx(3)
    assert torch.equal(lit(image, 1.0), to_linear(image))
    assert torch.equal(lit(image * 0.9, 3.0), to_linear(image * 0.9))


def test_weights_of_regions_sum_to_one_and_belong_to_the_nearest():
    weights = region_weights(33, 50, 2, 3)
    assert torch.allclose(weights.sum(0), torch.ones(33, 50), atol=1e-5)
    assert weights.min() >= 0
    assert weights[:, 0, 0].argmax() == 0
    assert weights[:, -1, -1].argmax() == 5
    assert weights[:, 0, 25].argmax() == 1


def test_varying_blur_mixes_its_kernels():
    image, kernels = scene(), torch.stack([disk_kernel(2.0), torch.nn.functional.pad(disk_kernel(0), [2] * 4)])
    left = torch.zeros(2, 64, 72)
    left[0, :, :36] = left[1, :, 36:] = 1
    mixed = varying_blur(image, kernels, left)
    assert torch.allclose(mixed[..., :36], convolve(image, kernels[:1])[0][..., :36])
    assert torch.allclose(mixed[..., 36:], image[..., 36:], atol=1e-6)


def two_halves():
    """Red before blue, and the opacity of the red half."""
    image = torch.zeros(3, 40, 60)
    image[0, :, :30], image[2, :, 30:] = 1, 1
    mask = torch.zeros(40, 60)
    mask[:, :30] = 1
    return image, mask


def flat_radii(radius):
    return torch.full((40, 60), float(radius))


def test_a_sharp_object_does_not_bleed_into_the_blur_behind_it():
    image, mask = two_halves()
    result = defocus(image, flat_radii(6), mask, flat_radii(0))
    assert torch.allclose(result, image, atol=1e-5)
    assert (defocus(image, flat_radii(6)) - image).abs().max() > 0.3  # without layers it does


def test_a_blurred_object_is_transparent_at_its_edge():
    image, mask = two_halves()
    result = defocus(image, flat_radii(0), mask, flat_radii(6))
    assert torch.allclose(result.sum(0), torch.ones(40, 60), atol=1e-5)
    assert 0.1 < result[0, 20, 32] < 0.5
    assert 0.1 < result[2, 20, 27] < 0.5
    assert result[0, 20, 45] == pytest.approx(0, abs=1e-5)


def test_layers_of_all_or_nothing():
    image, _ = two_halves()
    kernel, other = (torch.nn.functional.pad(disk_kernel(r), [5 - math.ceil(r - 0.5)] * 4)[None] for r in (2.0, 5.0))
    ones = torch.ones(1, 40, 60)
    near = layered_blur(image, torch.ones(40, 60), (other, ones), (kernel, ones))
    assert torch.allclose(near, varying_blur(image, kernel, ones), atol=1e-5)
    far = layered_blur(image, torch.zeros(40, 60), (other, ones), (kernel, ones))
    assert torch.allclose(far, varying_blur(image, other, ones), atol=1e-5)


def test_radii_follow_their_map():
    image = torch.zeros(1, 41, 123)
    image[:, 20, 20::41] = 1
    radii = torch.linspace(0, 8, 123).expand(41, 123)
    result = defocus(image, radii)
    spread = [float(1 / result[0, :, 41 * i : 41 * i + 41].square().sum()) for i in range(3)]
    assert spread[0] < spread[1] < spread[2]
    kernels, weights = radius_stack(radii)
    assert torch.allclose(weights.sum(0), torch.ones(41, 123), atol=1e-5)
    assert len(kernels) >= 6
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInputError, match="radii of at least 0"):
            radius_stack(torch.full((3, 3), wrong))


def test_masks_have_both_sides_and_sharp_edges():
    for seed in range(10):
        mask = object_mask(scene(height=96, width=96), 48.0, generator(seed))
        assert 0.1 < mask.mean() < 0.9
        assert ((mask > 0.01) & (mask < 0.99)).float().mean() < 0.3


def test_blur_is_defocus_or_motion():
    clean = scene()
    bare = {"noise_share": 0, "jpeg_share": 0}
    only_defocus = Blur(motion_share=0, motion={"length": 0}, defocus={"radius": 4, "highlight_gain": 1}, **bare)
    only_motion = Blur(motion_share=1, motion={"length": 20}, defocus={"radius": 0}, **bare)
    for degrade in (only_defocus, only_motion):
        assert max(psnr(degrade(clean, generator(seed)), clean) for seed in range(6)) < 30
    assert Defocus().radius[0] == 0


def test_the_radius_varies_over_the_image_when_asked_to():
    points = torch.zeros(1, 105, 105)
    points[:, 10::21, 10::21] = 1
    settings = {"radius": (1, 8), "layer_share": 0, "polygon_share": 0, "highlight_gain": 1, "scale": 32}

    def unevenness(varying_share, seed):
        result = to_linear(Defocus(**settings, varying_share=varying_share)(points, generator(seed)))[0]
        areas = torch.nn.functional.unfold(result[None, None], 21, stride=21)[0].square().sum(0).reciprocal()
        return float(areas.max() / areas.min())

    assert max(unevenness(0, seed) for seed in range(5)) < 1.3
    assert max(unevenness(1, seed) for seed in range(5)) > 2
