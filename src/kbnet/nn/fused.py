"""Blocks as one call of the compiled kernels, or one per half in training, where these can run them.

See `kbnet.ops.block` and `kbnet.ops.training`. The modules of `kbnet.nn.blocks` remain the definition: they are what is
exported and compared with, and every call that is not plain inference or training of a block that is just what its
description says, on a CPU, goes through them.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kbnet.description import FUSION, MIXED, BlockL, BlockS, describe
from kbnet.nn.conformity import PLAIN, departure
from kbnet.nn.context import Computed, FullFrame
from kbnet.nn.layers import LayerNorm2d
from kbnet.ops import native
from kbnet.ops.block import fused_block, normalized_cell_sums
from kbnet.ops.training import feed_forward as trained_feed_forward
from kbnet.ops.training import fusion as trained_fusion

MAX_CHANNELS = 512
MAX_CHANNELS_BFLOAT16 = 256
"""Above these a block's matrix products outweigh everything else, and the libraries' are faster (measured)."""

MAX_TRAINED_CHANNELS = 128
"""The same in training."""

MAX_TRAINED_PIXELS = 128 * 128
"""Of an image in training as one call."""

_BAND = 16  # rows summed together for a mean over the image


@dataclass(frozen=True)
class Plan:
    """Which parts of a block run as one call of the compiled kernels. None: this one does; else why its layers run.

    Attributes:
        inference: the whole block of KBNet-S, or the fusion half of KBNet-L's, without gradients.
        fusion: the fusion half, with gradients.
        feed_forward: the feed-forward half, with gradients.
    """

    inference: str | None
    fusion: str | None
    feed_forward: str | None


def plan(block: nn.Module, x: Tensor, context: FullFrame) -> Plan:
    """How a block (`KBBlockS`, `KBBlockL`) runs on x [B,C,H,W]; every check that fails makes the layers run.

    Setting KBNET_FUSED=off in the environment makes the layers run always, to compare with.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # First: a compiler reads no further.
        traced = "the network is being traced, and a graph wants its layers"
        return Plan(traced, traced, traced)
    settings = getattr(block, "settings", None)
    reason = refuses_here() or refuses_call(x)
    if reason is not None or not isinstance(settings, BlockS | BlockL):
        reason = reason or "nothing says how it was built"
        return Plan(reason, reason, reason)
    if torch.is_grad_enabled():
        return _plan_training(block, settings, x, context)
    gradients = "no gradients are wanted"
    return Plan(_refuses_inference(block, settings, x), gradients, gradients)


@contextlib.contextmanager
def layers_alone() -> Iterator[None]:
    """Within it every block of this thread runs layer by layer: to compare what stands in for the layers with them."""
    token = _layers_alone.set(True)
    try:
        yield
    finally:
        _layers_alone.reset(token)


_layers_alone: ContextVar[bool] = ContextVar("layers_alone", default=False)


def refuses_here() -> str | None:
    """Why no block can run as one call here and now, whatever its input; None if one can."""
    if os.environ.get("KBNET_FUSED") == "off":
        return "KBNET_FUSED is off"
    if _layers_alone.get():
        return "the layers alone are wanted"
    return native.refuses_here()


def whole(block: nn.Module, x: Tensor, context: FullFrame) -> Tensor:
    """The block, or the fusion half of KBNet-L's, in inference, [B,C,H,W] -> the same; where `plan` allows it."""
    call = _call(block.settings)
    norm, branch = _module(block, call.norm), _module(block, call.branch)
    means, cell = branch.grid(_Normalized(x, norm), context)  # type: ignore[operator, arg-type]  # it is a ChannelBranch
    y: Tensor = fused_block(
        x,
        means,
        [_parameter(block, path) for path in call.mixed],
        [_parameter(block, path) for path in call.feed_forward],
        cell=cell,
        bfloat16=_in_bfloat16(x),
        **call.settings,
    )
    return y


def fusion(block: nn.Module, x: Tensor) -> Tensor:
    """The fusion half with gradients, [B,C,H,W] -> the same; where `plan` allows it."""
    call = _call(block.settings)
    parameters = [_parameter(block, path) for path in call.fusion]
    present = [p for p in parameters if p is not None]  # all: every layer of this block has a bias
    settings = call.settings
    y: Tensor
    y, _ = trained_fusion(x, present, settings["group_channels"], settings["kernel_size"], settings["eps"])
    return y


def feed_forward(block: nn.Module, x: Tensor, channels_last: bool) -> Tensor:
    """The feed-forward half with gradients, [B,C,H,W] -> the same in the memory format asked for; as `plan` allows."""
    call = _call(block.settings)
    parameters = [_parameter(block, path) for path in call.feed_forward]
    y: Tensor = trained_feed_forward(x, [p for p in parameters if p is not None], call.settings["eps"], channels_last)
    return y


Path = tuple[str, ...] | None


class _Call:
    """What the calls of a block with these settings are made of, by its description."""

    def __init__(self, settings: BlockS | BlockL) -> None:
        described = describe(settings)
        self.layers = {
            "inference": tuple(
                layer for layer in described if isinstance(settings, BlockS) or layer.half != "attention"
            ),
            "fusion": tuple(layer for layer in described if layer.half in ("", "fusion")),
            "feed_forward": tuple(layer for layer in described if layer.half in ("", "feed_forward")),
        }
        self.fusion = [_split(described.fusion[role]) for role in FUSION]
        self.mixed = [_split(described.fusion[role]) for role in MIXED]
        self.feed_forward = [_split(path) for path in described.feed_forward.values()]
        layer = {role: described.layer_of(role) for role in ("norm_weight", "mix", "static_conv", "bases", "head_conv")}
        self.norm, mix = (_split(layer[role].path) for role in ("norm_weight", "mix"))
        self.branch = mix[:-1] if mix else None
        group_channels, kernel_size, _ = layer["bases"].settings["taps"]
        static = layer["static_conv"]
        self.settings: dict[str, Any] = {
            "bases": layer["bases"].shape("weight")[0],
            "group_channels": group_channels,
            "kernel_size": kernel_size,
            "head": layer["head_conv"].settings["out_channels"],
            "static_group": static.shape("weight")[1],
            "static_kernel": static.shape("weight")[2],
            "gelu": described.gelu,
            "eps": layer["norm_weight"].settings["eps"],
        }


_call = lru_cache(maxsize=64)(_Call)


def _split(path: str | None) -> Path:
    return None if path is None else tuple(path.split("."))


def _module(block: nn.Module, path: Path) -> nn.Module:
    module: nn.Module | None = block
    for name in path or ():
        assert module is not None
        module = module._modules[name]
    assert module is not None
    return module


def _parameter(block: nn.Module, path: Path) -> Tensor | None:
    # Not by attribute: `torch.func.functional_call` puts plain tensors where parameters were.
    return None if path is None else _module(block, path[:-1])._parameters[path[-1]]


def refuses_call(x: Tensor) -> str | None:
    """Why no part of any block may run as one call, whatever it is made of."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "it is differentiated forward or transformed by torch.func, which the kernels cannot follow"
    if type(x) not in PLAIN or x.ndim != 4:
        return "its input is no plain image [B,C,H,W]"
    return native.refuses(x, x)


def _refuses_inference(block: nn.Module, settings: BlockS | BlockL, x: Tensor) -> str | None:
    if block.training:
        return "it is in training mode; use eval()"
    reason = _departs(block, settings, "inference", x)
    if reason is not None:
        return reason
    limit = MAX_CHANNELS_BFLOAT16 if _in_bfloat16(x) else MAX_CHANNELS
    if settings.channels > limit:
        return f"with more than {limit} channels its layers are faster one by one"
    return None


def _plan_training(block: nn.Module, settings: BlockS | BlockL, x: Tensor, context: FullFrame) -> Plan:
    gradients = "it computes no gradients; use eval() and torch.inference_mode()"
    reason = None
    if isinstance(settings, BlockL):
        reason = "blocks of this family are trained layer by layer"
    elif _in_bfloat16(x) or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        reason = "training as one call is in float32"
    elif settings.channels > MAX_TRAINED_CHANNELS:
        reason = f"with more than {MAX_TRAINED_CHANNELS} channels its layers are faster one by one"
    if reason is not None:
        return Plan(gradients, reason, reason)
    fusion = _refuses_trained_fusion(settings, x, context) or _departs(block, settings, "fusion", x)
    return Plan(gradients, fusion, _departs(block, settings, "feed_forward", x))


def _refuses_trained_fusion(settings: BlockS | BlockL, x: Tensor, context: FullFrame) -> str | None:
    call = _call(settings)
    if call.settings["static_kernel"] != 3 or call.settings["static_group"] != 1:
        return "its static branch is not the lightweight one"
    if type(context) is not FullFrame:
        return "its channel branch does not average over the image"
    if x.shape[0] < torch.get_num_threads():
        return "threads work on whole images, and there are too few"
    if x.shape[2] * x.shape[3] > MAX_TRAINED_PIXELS:
        return f"with more than {MAX_TRAINED_PIXELS} pixels an image leaves the cache"
    return None


def _departs(block: nn.Module, settings: BlockS | BlockL, part: str, x: Tensor) -> str | None:
    """How the block is not what its settings say, or x does not fit it."""
    if x.shape[1] != settings.channels:
        return f"its input has {x.shape[1]} channels, not {settings.channels}"
    call = _call(settings)
    reason = departure(block, call.layers[part])
    if reason is not None:
        return reason
    parameter = _parameter(block, call.mixed[0] if part != "feed_forward" else call.feed_forward[0])
    assert parameter is not None
    reason = native.refuses(parameter, parameter)
    if reason is not None:
        return reason
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return None if dtype == torch.bfloat16 else f"autocast computes {dtype}"
    return None if parameter.dtype == x.dtype else f"its input is {x.dtype}, and its parameters are {parameter.dtype}"


def _in_bfloat16(x: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.bfloat16 or autocast


class _Normalized:
    """LayerNorm(x) for averages over its pixels, without ever storing it; a `Features` of `kbnet.nn.context`."""

    def __init__(self, x: Tensor, norm: LayerNorm2d) -> None:
        self.x, self.norm = x, norm

    @property
    def shape(self) -> Sequence[int]:
        return self.x.shape

    def inside(self, halo: int) -> "_Normalized":
        # The norm is of single pixels, so cutting commutes with it.
        return _Normalized(Computed(self.x).inside(halo).u, self.norm)

    def mean(self) -> Tensor:
        height, width = self.x.shape[2:]
        return self._sums(_BAND, width).sum((2, 3), keepdim=True) / (height * width)

    def cell_means(self, cell: int) -> Tensor:
        height, width = self.x.shape[2:]
        return self._sums(cell, cell) / (_sizes(height, cell)[:, None] * _sizes(width, cell))

    def _sums(self, rows: int, cols: int) -> Tensor:
        norm = self.norm
        sums: Tensor = normalized_cell_sums(self.x, norm.weight, norm.bias, rows, cols, norm.eps)
        return sums


def _sizes(length: int, cell: int) -> Tensor:
    """Pixels in each cell along one side; the last may be smaller."""
    return torch.tensor([float(min(cell, length - start)) for start in range(0, length, cell)])
