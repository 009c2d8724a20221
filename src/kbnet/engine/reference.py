"""Whole networks in numpy, layer by layer: the engine's specification, and the last resort without compiled kernels.

Every function takes and returns images or features [B,C,H,W]. Parameters have the names of the module's `state_dict`.
The equations are in arXiv 2303.02881, sections 3.1 to 3.3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kbnet.engine import reference_l
from kbnet.engine.averages import Averages
from kbnet.engine.contexts import Context, FullFrame
from kbnet.engine.reference_layers import (
    Parameters,
    Planes,
    coefficients,
    convolve,
    kernel_basis_attention,
    normalise,
    pixel_shuffle,
)


def restore(image: Planes, p: Parameters, settings: Mapping[str, Any], context: Context | None = None) -> Planes:
    """Run a network on images [B,C,H,W] of any size; averages default to those over each image."""
    large = "heads" in settings  # KBNet-L
    multiple = 8 if large else 2 ** len(settings["encoder_blocks"])
    height, width = image.shape[2:]
    padded = np.pad(image, ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)))
    average = Averages(context or FullFrame(), padded.shape[2])
    y = (reference_l.restore if large else _restore_small)(padded, p, settings, average)
    return y[:, :, :height, :width]


def _restore_small(padded: Planes, p: Parameters, settings: Mapping[str, Any], average: Averages) -> Planes:
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
        up = pixel_shuffle(convolve(x, p, f"upsample.{level}.0"))
        x = stage(up + skips.pop(), f"decoder.{level}", count)
    y: Planes = convolve(x, p, "last") + padded
    return y


def block(x: Planes, p: Parameters, name: str, settings: Mapping[str, Any], average: Averages) -> Planes:
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


def _halve(x: Planes, p: Parameters, name: str) -> Planes:
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    y: Planes = np.einsum("bchuwv,ocuv->bohw", blocks, p[f"{name}.weight"], optimize=True)
    return y + p[f"{name}.bias"][:, None, None]
