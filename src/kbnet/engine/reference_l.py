"""KBNet-L in numpy, layer by layer; `kbnet.engine.reference` explains the conventions."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kbnet.engine.averages import Averages
from kbnet.engine.reference_layers import (
    Parameters,
    Planes,
    coefficients,
    convolve,
    kernel_basis_attention,
    normalise,
    pixel_shuffle,
)

_erf = np.vectorize(math.erf, otypes=[np.float64])


def restore(image: Planes, p: Parameters, settings: Mapping[str, Any], average: Averages) -> Planes:
    """Run a KBNet-L on images [B,C,H,W] whose sides are multiples of 8."""

    def stage(x: Planes, name: str, count: int, heads: int) -> Planes:
        for number in range(count):
            x = block(x, p, f"{name}.{number}", settings, heads, average)
        return x

    counts, heads = settings["blocks"], settings["heads"]
    x = convolve(image, p, "first")
    skips = []
    for level in range(3):
        x = stage(x, f"encoder.{level}", counts[level], heads[level])
        skips.append(x)
        x = _pixel_unshuffle(convolve(x, p, f"downsample.{level}.0"))
    x = stage(x, "middle", counts[3], heads[3])
    for number, level in enumerate((2, 1, 0)):
        x = np.concatenate([pixel_shuffle(convolve(x, p, f"upsample.{number}.0")), skips.pop()], 1)
        if level > 0:
            x = convolve(x, p, f"reduce.{number}")
        x = stage(x, f"decoder.{number}", counts[level], heads[level])
    x = stage(x, "refinement", settings["refinement_blocks"], heads[0])
    y: Planes = convolve(x, p, "last") + image
    return y


def block(x: Planes, p: Parameters, name: str, settings: Mapping[str, Any], heads: int, average: Averages) -> Planes:
    """Run one block: multi-axis feature fusion, then transposed attention."""
    x = x + _fusion(normalise(x, p, f"{name}.fusion_norm"), p, f"{name}.fusion", settings, average)
    return x + _attention(normalise(x, p, f"{name}.attention_norm"), p, f"{name}.attention", heads, average)


def _fusion(u: Planes, p: Parameters, name: str, settings: Mapping[str, Any], average: Averages) -> Planes:
    channel = convolve(average(u), p, f"{name}.channel_branch.mix")
    hidden = channel.shape[1]
    static = convolve(convolve(u, p, f"{name}.static_branch.0"), p, f"{name}.static_branch.1", hidden)
    gelu = 0.5 * static * (1 + _erf(static / math.sqrt(2))).astype(static.dtype)
    v = convolve(convolve(u, p, f"{name}.adaptive_in.0"), p, f"{name}.adaptive_in.1", hidden)
    adaptive = kernel_basis_attention(v, coefficients(u, p, f"{name}.coefficients"), p, f"{name}.kba", settings)
    return convolve(gelu * (adaptive * p[f"{name}.kba_scale"] + v) * channel, p, f"{name}.out")


def _attention(u: Planes, p: Parameters, name: str, heads: int, average: Averages) -> Planes:
    """Mix the channels of each head (Restormer, arXiv 2111.09881, section 3.1)."""
    qkv = convolve(u, p, f"{name}.qkv")
    q, k, v = np.split(convolve(qkv, p, f"{name}.qkv_depthwise", qkv.shape[1]), 3, 1)

    def per_head(t: Planes) -> Planes:  # [B,C,H,W] -> [B,heads,C/heads,pixels]
        return t.reshape(len(t), heads, t.shape[1] // heads, -1)

    seen_q, seen_k = per_head(average.pixels(q)), per_head(average.pixels(k))
    pixels = seen_q.shape[-1]
    products = average.share(seen_q @ seen_k.swapaxes(2, 3) / pixels)
    length_q = np.sqrt(average.share((seen_q**2).mean(3, keepdims=True)))
    length_k = np.sqrt(average.share((seen_k**2).mean(3, keepdims=True)))
    eps = 1e-12 / math.sqrt(pixels)  # as in F.normalize, for means in place of sums
    cosines = products / (np.maximum(length_q, eps) * np.maximum(length_k, eps).swapaxes(2, 3))
    scores = cosines * p[f"{name}.temperature"]
    exponentials = np.exp(scores - scores.max(3, keepdims=True))
    attention = exponentials / exponentials.sum(3, keepdims=True)
    return convolve((attention @ per_head(v)).reshape(v.shape), p, f"{name}.out")


def _pixel_unshuffle(x: Planes) -> Planes:
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(batch, -1, height // 2, width // 2)
