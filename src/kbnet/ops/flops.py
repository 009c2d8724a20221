"""What the operators cost, told to torch, so that `torch.utils.flop_counter.FlopCounterMode` sees everything.

By torch's convention a multiply-add is two floating-point operations.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from kbnet.ops import block, kba, training  # noqa: F401  # they register the operators below

Shape = Sequence[int]


def multiply_adds(channels: int, bases: int, group_channels: int, kernel_size: int) -> int:
    """Multiply-adds a pixel of the operator: mixing (or N convolutions), applying, and bias."""
    taps = channels * group_channels * kernel_size**2
    return bases * taps + taps + bases * channels


def _pixels(x: Shape) -> int:
    return x[0] * x[2] * x[3]


@register_flop_formula(torch.ops.kbnet.kernel_basis_attention)
def _forward(x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    bases, channels, group_channels, kernel_size, _k = weight
    return 2 * _pixels(x) * multiply_adds(channels, bases, group_channels, kernel_size)


@register_flop_formula(torch.ops.kbnet.kernel_basis_attention_backward)
def _backward(dy: Shape, x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    # Three products of the size of the bases, one for each of x, coefficients and weight; and two for the biases.
    return 2 * _pixels(x) * (3 * math.prod(weight) + 2 * math.prod(bias))


_WEIGHTS = (2, 4, 6, 8, 10, 12, 14, 20)  # of the convolutions in fused_block's `fusion`; their biases follow them
_FEED_FORWARD_WEIGHTS = (2, 4)


@register_flop_formula(torch.ops.kbnet.fused_block)
def _fused_block(
    x: Shape,
    means: Shape,
    fusion: Sequence[Shape],
    feed_forward: Sequence[Shape],
    cell: int,
    bases: int,
    group_channels: int,
    kernel_size: int,
    *_: Any,
    **__: Any,
) -> int:
    # A weight is used once a pixel: every convolution here has stride 1.
    each = sum(math.prod(fusion[i]) for i in _WEIGHTS)
    each += sum(math.prod(feed_forward[i]) for i in _FEED_FORWARD_WEIGHTS if feed_forward)
    return 2 * _pixels(x) * (each + multiply_adds(means[1], bases, group_channels, kernel_size))


# Backward passes of trained halves count what they do: both gradients of every product, and what they compute again.
_TRAINED_WEIGHTS = (4, 6, 8, 10, 12, 14, 16, 22)  # of the convolutions in fusion's `parameters`
_TRAINED_MIX, _TRAINED_OUT, _TRAINED_BASES = 2, 22, 19


@register_flop_formula(torch.ops.kbnet.feed_forward)
def _feed_forward(x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * _pixels(x) * sum(math.prod(parameters[i]) for i in _FEED_FORWARD_WEIGHTS)


@register_flop_formula(torch.ops.kbnet.feed_forward_backward)
def _feed_forward_backward(dy: Shape, x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    first, second = (math.prod(parameters[i]) for i in _FEED_FORWARD_WEIGHTS)
    return 2 * _pixels(x) * (3 * first + 2 * second)


@register_flop_formula(torch.ops.kbnet.fusion)
def _fusion(x: Shape, parameters: Sequence[Shape], group_channels: int, kernel_size: int, *_: Any, **__: Any) -> int:
    bases, channels = parameters[_TRAINED_BASES][:2]
    each = sum(math.prod(parameters[i]) for i in _TRAINED_WEIGHTS)
    each += multiply_adds(channels, bases, group_channels, kernel_size)
    return 2 * (_pixels(x) * each + x[0] * math.prod(parameters[_TRAINED_MIX]))


@register_flop_formula(torch.ops.kbnet.fusion_backward)
def _fusion_backward(dy: Shape, x: Shape, filtered: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    bases = parameters[_TRAINED_BASES]
    # The operator's own value and the output are not computed again.
    each = 3 * sum(math.prod(parameters[i]) for i in _TRAINED_WEIGHTS) - math.prod(parameters[_TRAINED_OUT])
    each += 3 * math.prod(bases) + 2 * bases[0] * bases[1]
    return 2 * (_pixels(x) * each + 3 * x[0] * math.prod(parameters[_TRAINED_MIX]))
