"""Random numbers and smooth random fields from a given generator."""

import math

import torch
from torch import Generator, Tensor


def uniform(ends: tuple[float, float], generator: Generator) -> float:
    """Draw a number uniformly from a range. Always one draw, even if both ends are equal."""
    low, high = ends
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(ends: tuple[float, float], generator: Generator) -> float:
    """Draw a number from a range of positive numbers, uniformly in its logarithm."""
    return math.exp(uniform((math.log(ends[0]), math.log(ends[1])), generator))


def integer(ends: tuple[float, float], generator: Generator) -> int:
    """Draw an integer from a range, both ends included."""
    low, high = int(ends[0]), int(ends[1])
    return low + min(int(uniform((0, high - low + 1), generator)), high - low)


def normal(generator: Generator) -> float:
    """Draw a number from the standard normal distribution."""
    return float(torch.randn((), generator=generator))


def chance(share: float, generator: Generator) -> bool:
    """Return True in this share of calls. Always one draw, even for shares of 0 and 1."""
    return float(torch.rand((), generator=generator)) < share


def smooth_field(height: int, width: int, scale: float, generator: Generator) -> Tensor:
    """Return random values [H,W] in [0,1] that vary smoothly over about `scale` pixels.

    Uniform values on a grid with a random offset are interpolated by the cubic B-spline, and stretched about their
    mean, because the spline about halves their deviation.
    """
    down, down_start = _spline(height, scale, generator)
    across, across_start = _spline(width, scale, generator)
    grid = torch.rand(down_start, across_start, generator=generator)
    return ((down @ grid @ across.T - 0.5) * 2 + 0.5).clamp_(0, 1)


def _spline(length: int, scale: float, generator: Generator) -> tuple[Tensor, int]:
    """Return weights [length,knots] of the uniform cubic B-spline with knots `scale` apart, and the number of knots."""
    position = (torch.arange(length) + uniform((0, scale), generator)) / scale
    knots = int(position[-1]) + 4
    distance = (position[:, None] + 1 - torch.arange(knots)).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp_min(0).pow(3) / 6
    return torch.where(distance < 1, near, far), knots
