"""Costs of the operators for `torch.utils.flop_counter`, where a multiply-add counts as two operations (FLOPs)."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from kbnet.description import FEED_FORWARD, FUSION, kba_multiply_adds
from kbnet.description import multiply_adds as multiply_adds_of
from kbnet.ops import kba, training  # noqa: F401  # registers the operators below

Shape = tuple[int, ...]


def multiply_adds(channels: int, bases: int, group_channels: int, kernel_size: int) -> int:
    """Return the operator's multiply-adds per pixel: mixing (or N convolutions), applying, and bias."""
    return kba_multiply_adds(channels, bases, group_channels, kernel_size)


def _pixels(x: Shape) -> int:
    return x[0] * x[2] * x[3]


def _forward(x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    bases, channels, group_channels, kernel_size, _k = weight
    return 2 * _pixels(x) * multiply_adds(channels, bases, group_channels, kernel_size)


def _backward(dy: Shape, x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    # One product of the size of the bases for each of x, coefficients and weight, and two for the biases.
    return 2 * _pixels(x) * (3 * math.prod(weight) + 2 * math.prod(bias))


def _feed_forward(x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * _pixels(x) * multiply_adds_of(FEED_FORWARD, parameters)


# Backward passes of trained halves count both gradients of every product, and what they recompute.
def _feed_forward_backward(dy: Shape, x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    # The output is not recomputed.
    out = math.prod(parameters[FEED_FORWARD.index("out")])
    return 2 * _pixels(x) * (3 * multiply_adds_of(FEED_FORWARD, parameters) - out)


def _fusion(x: Shape, parameters: Sequence[Shape], group_channels: int, kernel_size: int, *_: Any, **__: Any) -> int:
    of = dict(zip(FUSION, parameters, strict=True))
    bases, channels = of["bases"][:2]
    each = multiply_adds_of(FUSION, parameters) + multiply_adds(channels, bases, group_channels, kernel_size)
    return 2 * (_pixels(x) * each + x[0] * math.prod(of["mix"]))


def _fusion_backward(dy: Shape, x: Shape, filtered: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    of = dict(zip(FUSION, parameters, strict=True))
    # The operator's own value and the output are not recomputed.
    each = 3 * multiply_adds_of(FUSION, parameters) - math.prod(of["out"])
    each += 3 * math.prod(of["bases"]) + 2 * math.prod(of["bases_bias"])
    return 2 * (_pixels(x) * each + 3 * x[0] * math.prod(of["mix"]))


@cache
def register_flop_formulas() -> None:
    """Register the costs of kbnet's operators with `torch.utils.flop_counter.FlopCounterMode`.

    Call it once before counting; without it, the counter sees only convolutions and matrix products. `import kbnet`
    doesn't call it, because the counter's module imports triton if it is installed.

    Example:
        >>> import torch
        >>> from torch.utils.flop_counter import FlopCounterMode
        >>> from kbnet.ops import kernel_basis_attention, register_flop_formulas
        >>> register_flop_formulas()
        >>> t = torch.ones
        >>> with FlopCounterMode(display=False) as counter:
        ...     y = kernel_basis_attention(t(1, 2, 3, 3), t(1, 2, 3, 3), t(2, 2, 1, 3, 3), t(2, 2))
        >>> counter.get_total_flops()
        1044
    """
    from torch.utils.flop_counter import register_flop_formula

    formulas: dict[Any, Any] = {
        torch.ops.kbnet.kernel_basis_attention: _forward,
        torch.ops.kbnet.kernel_basis_attention_backward: _backward,
        torch.ops.kbnet.feed_forward: _feed_forward,
        torch.ops.kbnet.feed_forward_backward: _feed_forward_backward,
        torch.ops.kbnet.fusion: _fusion,
        torch.ops.kbnet.fusion_backward: _fusion_backward,
    }
    for operator, formula in formulas.items():
        register_flop_formula(operator)(formula)
