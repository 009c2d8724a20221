"""Gaussian noise: its statistics, and that the generator alone decides it."""

import math

import pytest
import torch

from kbnet.degradations import GaussianNoise, gaussian_noise
from kbnet.degradations.noise import sigma_map
from kbnet.errors import InvalidInputError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_generator_gives_the_same_noise_and_another_seed_another():
    clean = torch.rand(2, 3, 16, 16)
    first = gaussian_noise(clean, 25.0, generator(1))
    assert torch.equal(first, gaussian_noise(clean, 25.0, generator(1)))
    assert not torch.equal(first, gaussian_noise(clean, 25.0, generator(2)))


def test_with_a_generator_the_default_one_is_left_alone():
    before = torch.get_rng_state()
    gaussian_noise(torch.rand(1, 3, 8, 8, generator=generator()), 25.0, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_default_seed_decides():
    clean = torch.zeros(1, 3, 8, 8)
    torch.manual_seed(3)
    first = gaussian_noise(clean, 25.0)
    torch.manual_seed(3)
    assert torch.equal(gaussian_noise(clean, 25.0), first)


@pytest.mark.parametrize("sigma", [5.0, 25.0, 50.0])
def test_noise_has_mean_zero_the_asked_deviation_and_is_white(sigma):
    side = 512
    noise = (gaussian_noise(torch.full((1, 1, side, side), 0.5), sigma, generator()) - 0.5) * 255
    standard_error = sigma / side
    assert abs(noise.mean()) < 5 * standard_error
    assert abs(noise.std() - sigma) < 5 * standard_error / math.sqrt(2)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / sigma**2
    assert abs(neighbours) < 5 / side
    beyond_two_deviations = float((noise.abs() > 2 * sigma).float().mean())
    assert beyond_two_deviations == pytest.approx(math.erfc(2 / math.sqrt(2)), abs=0.002)


def test_noise_is_neither_clipped_nor_quantised():
    noisy = gaussian_noise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64), 50.0, generator())
    assert noisy.min() < -0.3
    assert noisy.max() > 1.3
    assert (noisy * 255).frac().unique().numel() > 5000


def test_each_image_of_a_batch_gets_its_own_deviation_and_its_own_noise():
    noisy = gaussian_noise(torch.zeros(3, 1, 128, 128), torch.tensor([0.0, 10.0, 50.0]), generator()) * 255
    assert torch.equal(noisy[0], torch.zeros(1, 128, 128))
    assert noisy[1].std() == pytest.approx(10, rel=0.03)
    assert noisy[2].std() == pytest.approx(50, rel=0.03)
    correlation = torch.corrcoef(noisy[1:].flatten(1))[0, 1]
    assert abs(correlation) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_clean_image_is_left_alone_and_its_dtype_kept(dtype):
    clean = torch.rand(1, 3, 8, 8, dtype=dtype)
    before = clean.clone()
    assert gaussian_noise(clean, torch.tensor([25.0], dtype=torch.float64), generator()).dtype == dtype
    assert torch.equal(clean, before)


def test_a_list_of_deviations_that_does_not_fit_the_batch_is_refused():
    with pytest.raises(InvalidInputError, match=r"one for each of 1 images, .*got shape \[3\]"):
        gaussian_noise(torch.zeros(1, 3, 8, 8), torch.tensor([1.0, 2.0, 3.0]), generator())


def test_one_sigma_a_pixel():
    sigma = torch.zeros(2, 1, 64, 64)
    sigma[1, :, :, 32:] = 30
    noisy = gaussian_noise(torch.zeros(2, 3, 64, 64), sigma, generator()) * 255
    assert torch.count_nonzero(noisy[0]) == torch.count_nonzero(noisy[1, :, :, :32]) == 0
    assert noisy[1, :, :, 32:].std() == pytest.approx(30, rel=0.05)
    with pytest.raises(InvalidInputError, match=r"one per pixel \[2,1,64,64\]"):
        gaussian_noise(torch.zeros(2, 3, 64, 64), sigma[0], generator())


@pytest.mark.parametrize("scale", [4.0, 32.0, 1000.0])
def test_a_sigma_map_is_smooth_and_keeps_to_its_range(scale):
    maps = [sigma_map(96, 80, (5, 45), scale, generator(seed)) for seed in range(20)]
    whole = torch.stack(maps)
    assert 5 <= whole.min() <= whole.max() <= 45
    assert whole.mean() == pytest.approx(25, abs=4)
    assert max(float(m.diff(dim=0).abs().max()) for m in maps) < 3 * 40 / scale
    if scale < 50:
        assert min(float(m.max() - m.min()) for m in maps) > 15


def test_varying_noise_has_the_deviation_of_its_map():
    clean = torch.full((1, 256, 256), 0.5)
    degrade = GaussianNoise(sigma=(5, 50), varying_share=1, varying_scale=64)
    ratios = []
    for seed in range(6):
        noise = (degrade(clean, generator(seed)) - clean)[0] * 255
        local = torch.nn.functional.avg_pool2d(noise[None].square(), 32)[0].sqrt()
        assert 4 < local.min() < local.max() < 55
        ratios.append(float(local.max() / local.min()))
    assert max(ratios) > 2
