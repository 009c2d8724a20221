"""KBNet-S in numpy, layer by layer: the engine's specification, and the last resort without compiled kernels.

Every function takes and returns images or features [B,C,H,W]. Parameters have the names of the module's `state_dict`.
The equations are in arXiv 2303.02881, sections 3.1 to 3.3.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.floating[Any]]
Parameters = Mapping[str, NDArray[Any]]
Average = Callable[[Planes], Planes]
"""Maps features [B,C,H,W] to their averages, [B,C,1,1], [1,C,1,1] or [B,C,H,W]."""

EPS = 1e-6


def restore(image: Planes, p: Parameters, settings: Mapping[str, Any], average: Average | None = None) -> Planes:
    """Run a KBNet-S on images [B,C,H,W] of any size; `average` defaults to the mean over each image."""
    average = average or (lambda u: u.mean((2, 3), keepdims=True))
    levels = len(settings["encoder_blocks"])
    height, width = image.shape[2:]
    padded = np.pad(image, ((0, 0), (0, 0), (0, -height % 2**levels), (0, -width % 2**levels)))

    def stage(x: Planes, name: str, count: int) -> Planes:
        for number in range(count):
            x = block(x, p, f"{name}.{number}", settings, average)
        return x

    x = convolve(padded, p, "first")
    skips = []
    for level, count in enumerate(settings["encoder_blocks"]):
        x = stage(x, f"encoder.{level}", count)
        skips.append(x)
        x = _halve(x, p, f"downsample.{level}")
    x = stage(x, "middle", settings["middle_blocks"])
    for level, count in enumerate(settings["decoder_blocks"]):
        up = _pixel_shuffle(convolve(x, p, f"upsample.{level}.0"))
        x = stage(up + skips.pop(), f"decoder.{level}", count)
    y: Planes = convolve(x, p, "last") + padded
    return y[:, :, :height, :width]


def block(x: Planes, p: Parameters, name: str, settings: Mapping[str, Any], average: Average) -> Planes:
    """Run one block: multi-axis feature fusion, then the gated feed-forward half."""
    channels = x.shape[1]
    u = normalise(x, p, f"{name}.fusion_norm")
    channel = convolve(average(u), p, f"{name}.channel_branch.mix")
    static_groups = channels if settings["lightweight"] else channels // 4
    static = convolve(convolve(u, p, f"{name}.static_branch.0"), p, f"{name}.static_branch.1", static_groups)
    v = convolve(convolve(u, p, f"{name}.adaptive_in.0"), p, f"{name}.adaptive_in.1", channels)
    adaptive = kernel_basis_attention(v, coefficients(u, p, f"{name}.coefficients"), p, f"{name}.kba", settings)
    adaptive = adaptive * p[f"{name}.kba_scale"] + v
    x = x + convolve(adaptive * static * channel, p, f"{name}.fusion_out") * p[f"{name}.fusion_scale"]
    first, second = np.split(convolve(normalise(x, p, f"{name}.ffn_norm"), p, f"{name}.ffn_in"), 2, 1)
    y: Planes = x + convolve(first * second, p, f"{name}.ffn_out") * p[f"{name}.ffn_scale"]
    return y


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
    result: Planes = y.reshape(batch, -1, height, width) + bias[:, None, None]
    return result


def _halve(x: Planes, p: Parameters, name: str) -> Planes:
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    y: Planes = np.einsum("bchuwv,ocuv->bohw", blocks, p[f"{name}.weight"], optimize=True)
    return y + p[f"{name}.bias"][:, None, None]


def _pixel_shuffle(x: Planes) -> Planes:
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels // 4, 2, 2, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(batch, -1, 2 * height, 2 * width)
