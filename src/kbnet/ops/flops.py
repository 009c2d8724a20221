"""What the operators cost, told to torch, so that `torch.utils.flop_counter.FlopCounterMode` sees everything.

By torch's convention a multiply-add is two floating-point operations.
"""

import math
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from kbnet.ops import block, kba, training  # noqa: F401  # they register the operators below

Shape = Sequence[int]


def multiply_adds(channels: int, bases: int, group_channels: int, kernel_size: int) -> int:
    """Multiply-adds a pixel of the operator: mixing (or N convolutions), applying, and bias."""
    taps = channels * group_channels * kernel_size**2
    return bases * taps + taps + bases * channels


def _pixels(x: Shape) -> int:
    return x[0] * x[2] * x[3]


def _forward(x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    bases, channels, group_channels, kernel_size, _k = weight
    return 2 * _pixels(x) * multiply_adds(channels, bases, group_channels, kernel_size)


def _backward(dy: Shape, x: Shape, coefficients: Shape, weight: Shape, bias: Shape, *_: Any, **__: Any) -> int:
    # Three products of the size of the bases, one for each of x, coefficients and weight; and two for the biases.
    return 2 * _pixels(x) * (3 * math.prod(weight) + 2 * math.prod(bias))


_WEIGHTS = (2, 4, 6, 8, 10, 12, 14, 20)  # of the convolutions in fused_block's `fusion`; their biases follow them
_FEED_FORWARD_WEIGHTS = (2, 4)


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
_TRAINED_WEIGHTS = tuple(i + 2 for i in _WEIGHTS)  # in fusion's `parameters`, which begin with the channel branch too
_TRAINED_MIX, _TRAINED_OUT, _TRAINED_BASES = 2, 22, 19


def _feed_forward(x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    return 2 * _pixels(x) * sum(math.prod(parameters[i]) for i in _FEED_FORWARD_WEIGHTS)


def _feed_forward_backward(dy: Shape, x: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    first, second = (math.prod(parameters[i]) for i in _FEED_FORWARD_WEIGHTS)
    return 2 * _pixels(x) * (3 * first + 2 * second)


def _fusion(x: Shape, parameters: Sequence[Shape], group_channels: int, kernel_size: int, *_: Any, **__: Any) -> int:
    bases, channels = parameters[_TRAINED_BASES][:2]
    each = sum(math.prod(parameters[i]) for i in _TRAINED_WEIGHTS)
    each += multiply_adds(channels, bases, group_channels, kernel_size)
    return 2 * (_pixels(x) * each + x[0] * math.prod(parameters[_TRAINED_MIX]))


def _fusion_backward(dy: Shape, x: Shape, filtered: Shape, parameters: Sequence[Shape], *_: Any, **__: Any) -> int:
    bases = parameters[_TRAINED_BASES]
    # The operator's own value and the output are not computed again.
    each = 3 * sum(math.prod(parameters[i]) for i in _TRAINED_WEIGHTS) - math.prod(parameters[_TRAINED_OUT])
    each += 3 * math.prod(bases) + 2 * bases[0] * bases[1]
    return 2 * (_pixels(x) * each + 3 * x[0] * math.prod(parameters[_TRAINED_MIX]))


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    formulas: dict[Any, Any] = {
        torch.ops.kbnet.kernel_basis_attention: _forward,
        torch.ops.kbnet.kernel_basis_attention_backward: _backward,
        torch.ops.kbnet.fused_block: _fused_block,
        torch.ops.kbnet.feed_forward: _feed_forward,
        torch.ops.kbnet.feed_forward_backward: _feed_forward_backward,
        torch.ops.kbnet.fusion: _fusion,
        torch.ops.kbnet.fusion_backward: _fusion_backward,
    }
    for operator, formula in formulas.items():
        register_flop_formula(operator)(formula)


_COUNTER = "torch.utils.flop_counter"


class _AfterImport(MetaPathFinder):
    """Registers the formulas when torch's counter is imported, and not before: it imports triton where there is one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if _COUNTER in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterImport())
