"""The layers that KBNet-S and KBNet-L share, in numpy; `kbnet.engine.reference` explains the conventions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.floating[Any]]
Parameters = Mapping[str, NDArray[Any]]

EPS = 1e-6


def coefficients(u: Planes, p: Parameters, name: str) -> Planes:
    """Predict the mixing coefficients of every pixel, [B,C,H,W] -> [B,N,H,W]."""
    first, second = np.split(convolve(u, p, f"{name}.grouped", len(p[f"{name}.grouped.bias"])), 2, 1)
    mixed: Planes = convolve(first * second, p, f"{name}.expand") * p[f"{name}.scale"]
    return mixed + convolve(u, p, f"{name}.projection")


def kernel_basis_attention(x: Planes, a: Planes, p: Parameters, name: str, settings: Mapping[str, Any]) -> Planes:
    """Compute the sum over n of a[n] * (grouped convolution of x with basis n + bias n)."""
    side, group = settings["kernel_size"], settings["group_channels"]
    count, channels = a.shape[1], x.shape[1]
    bases = p[f"{name}.weight"].reshape(count, channels, group, side, side)
    total = np.zeros_like(x)
    for n in range(count):
        total += a[:, n : n + 1] * _grouped(x, bases[n], p[f"{name}.bias"][n], channels // group)
    return total


def normalise(x: Planes, p: Parameters, name: str) -> Planes:
    """Apply layer norm over the channels of each pixel."""
    centred = x - x.mean(1, keepdims=True)
    scaled: Planes = centred / np.sqrt((centred**2).mean(1, keepdims=True) + EPS)
    return scaled * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def convolve(x: Planes, p: Parameters, name: str, groups: int = 1) -> Planes:
    """Convolve with zero padding and stride 1."""
    weight = p[f"{name}.weight"]
    return _grouped(x, weight, p.get(f"{name}.bias", np.zeros(len(weight), x.dtype)), groups)


def _grouped(x: Planes, weight: NDArray[Any], bias: NDArray[Any], groups: int) -> Planes:
    batch, _, height, width = x.shape
    side = weight.shape[2]
    half = side // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    kernels = weight.reshape(groups, -1, *weight.shape[1:])  # [groups,outputs,inputs,k,k]
    # For a single input per group, the product is the same and faster as a multiplication.
    multiply: Callable[[Planes, Planes], Planes] = np.multiply if kernels.shape[2] == 1 else np.matmul
    y: Planes = np.zeros((batch, groups, kernels.shape[1], height * width), x.dtype)
    for top in range(side):
        for left in range(side):
            shifted = padded[:, :, top : top + height, left : left + width]
            y += multiply(kernels[..., top, left], shifted.reshape(batch, groups, -1, height * width))
    together: Planes = y.reshape(batch, -1, height, width) + bias[:, None, None]
    return together


def pixel_shuffle(x: Planes) -> Planes:
    """Move channels [B,4C,H,W] to 2x2 pixels, [B,C,2H,2W]."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels // 4, 2, 2, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, -1, 2 * height, 2 * width)
