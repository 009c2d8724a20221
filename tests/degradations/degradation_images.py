"""Small images, and generators, for every test of degradations."""

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scene(channels=3, height=64, width=72, seed=0):
    """An image with smooth shades, edges and texture, on the 256 levels of a file."""
    down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    shades = torch.stack([0.2 + 0.6 * down * across, 0.5 + 0.3 * (down - across), 0.7 - 0.5 * across + 0 * down])
    shades = shades[:channels] + 0.2 * ((down * 8).floor() + (across * 8).floor()).remainder(2)
    texture = 0.05 * torch.randn(channels, height, width, generator=generator(seed))
    return ((shades + texture).clamp(0, 1) * 255).round() / 255


def psnr(image, reference):
    return float(-10 * torch.log10((image - reference).square().mean().clamp_min(1e-12)))
