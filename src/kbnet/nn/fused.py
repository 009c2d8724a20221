"""Runs a block as one call of the compiled kernels, or as one call per half in training.

See `kbnet.ops.block` and `kbnet.ops.training`. The modules of `kbnet.nn.blocks` remain the definition: exports and
comparisons use them, and they handle every call other than plain inference or training on a CPU of a block that is
exactly what its description says.
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
from kbnet.engine import MAX_CHANNELS
from kbnet.nn.conformity import PLAIN, departure
from kbnet.nn.context import Computed, FullFrame
from kbnet.nn.layers import LayerNorm2d
from kbnet.ops import native
from kbnet.ops.block import fused_block, normalized_cell_sums
from kbnet.ops.training import feed_forward as trained_feed_forward
from kbnet.ops.training import fusion as trained_fusion

MAX_CHANNELS_BFLOAT16 = 256
"""`MAX_CHANNELS` for bfloat16."""

NO_GRADIENTS = "it computes no gradients; use eval() and torch.inference_mode()"
"""Why a call that wants gradients runs layer by layer."""

MAX_TRAINED_CHANNELS = 128
"""The same limit for training."""

MAX_TRAINED_PIXELS = 128 * 128
"""Largest image, in pixels, that trains as one call per half."""

_BAND = 16  # rows per partial sum of a mean over the image


@dataclass(frozen=True)
class Plan:
    """Which parts of a block run as one call of the compiled kernels: None if the part does, else why its layers run.

    Attributes:
        inference: KBNet-S's whole block, or the fusion half of KBNet-L's, without gradients.
        fusion: the fusion half, with gradients.
        feed_forward: the feed-forward half, with gradients.
    """

    inference: str | None
    fusion: str | None
    feed_forward: str | None


def plan(block: nn.Module, x: Tensor, context: FullFrame) -> Plan:
    """Decide how a block (`KBBlockS`, `KBBlockL`) runs on x [B,C,H,W]. The layers run if any check fails.

    Set the environment variable KBNET_FUSED=off to always run the layers, for comparison.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # First, so that a compiler doesn't trace the other checks.
        traced = "the network is being compiled or traced, which needs its layers"
        return Plan(traced, traced, traced)
    settings = getattr(block, "settings", None)
    reason = refuses_here() or refuses_call(x)
    if reason is not None or not isinstance(settings, BlockS | BlockL):
        reason = reason or "the block has no description (settings)"
        return Plan(reason, reason, reason)
    if torch.is_grad_enabled():
        return _plan_training(block, settings, x, context)
    gradients = "gradients are disabled"
    return Plan(_refuses_inference(block, settings, x), gradients, gradients)


@contextlib.contextmanager
def layers_alone() -> Iterator[None]:
    """Run all blocks of this thread layer by layer inside the context manager, for comparison."""
    token = _layers_alone.set(True)
    try:
        yield
    finally:
        _layers_alone.reset(token)


_layers_alone: ContextVar[bool] = ContextVar("layers_alone", default=False)


def refuses_here() -> str | None:
    """Return why no block can run as one call on this machine or in this context; None if blocks can."""
    if os.environ.get("KBNET_FUSED") == "off":
        return "KBNET_FUSED is off"
    if _layers_alone.get():
        return "layers_alone() is active"
    return native.refuses_here()


def whole(block: nn.Module, x: Tensor, context: FullFrame) -> Tensor:
    """Run KBNet-S's block, or the fusion half of KBNet-L's, for inference, [B,C,H,W] -> [B,C,H,W]; see `plan`."""
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
    """Run the fusion half with gradients, [B,C,H,W] -> [B,C,H,W]; see `plan`."""
    call = _call(block.settings)
    parameters = [_parameter(block, path) for path in call.fusion]
    present = [p for p in parameters if p is not None]  # all of them: every layer of this block has a bias
    settings = call.settings
    y: Tensor
    y, _ = trained_fusion(x, present, settings["group_channels"], settings["kernel_size"], settings["eps"])
    return y


def feed_forward(block: nn.Module, x: Tensor, channels_last: bool) -> Tensor:
    """Run the feed-forward half with gradients, [B,C,H,W] -> [B,C,H,W]; see `plan`."""
    call = _call(block.settings)
    parameters = [_parameter(block, path) for path in call.feed_forward]
    y: Tensor = trained_feed_forward(x, [p for p in parameters if p is not None], call.settings["eps"], channels_last)
    return y


Path = tuple[str, ...] | None


class _Call:
    """Arguments of the calls of a block with these settings, derived from its description."""

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
    # Not by attribute: `torch.func.functional_call` replaces parameters with plain tensors.
    return None if path is None else _module(block, path[:-1])._parameters[path[-1]]


def refuses_call(x: Tensor) -> str | None:
    """Return why no block can run as one call on x; None if blocks can."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "forward-mode differentiation or a torch.func transform is active, which the kernels don't support"
    if type(x) not in PLAIN or x.ndim != 4:
        return "its input is not a plain tensor [B,C,H,W]"
    return native.refuses(x, x)


def _refuses_inference(block: nn.Module, settings: BlockS | BlockL, x: Tensor) -> str | None:
    if block.training:
        return "it is in training mode; use eval()"
    reason = _departs(block, settings, "inference", x)
    if reason is not None:
        return reason
    limit = MAX_CHANNELS_BFLOAT16 if _in_bfloat16(x) else MAX_CHANNELS
    if settings.channels > limit:
        return f"with more than {limit} channels, running layer by layer is faster"
    return None


def _plan_training(block: nn.Module, settings: BlockS | BlockL, x: Tensor, context: FullFrame) -> Plan:
    reason = None
    if isinstance(settings, BlockL):
        reason = "KBNet-L's blocks train layer by layer"
    elif _in_bfloat16(x) or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        reason = "training as one call requires float32"
    elif settings.channels > MAX_TRAINED_CHANNELS:
        reason = f"with more than {MAX_TRAINED_CHANNELS} channels, running layer by layer is faster"
    if reason is not None:
        return Plan(NO_GRADIENTS, reason, reason)
    fusion = _refuses_trained_fusion(settings, x, context) or _departs(block, settings, "fusion", x)
    return Plan(NO_GRADIENTS, fusion, _departs(block, settings, "feed_forward", x))


def _refuses_trained_fusion(settings: BlockS | BlockL, x: Tensor, context: FullFrame) -> str | None:
    call = _call(settings)
    if call.settings["static_kernel"] != 3 or call.settings["static_group"] != 1:
        return "its static branch isn't the lightweight one"
    if type(context) is not FullFrame:
        return "its channel branch doesn't average over the whole input (FullFrame)"
    if x.shape[0] < torch.get_num_threads():
        return "the batch has fewer images than threads, and each thread needs a whole image"
    if x.shape[2] * x.shape[3] > MAX_TRAINED_PIXELS:
        return f"an image of more than {MAX_TRAINED_PIXELS} pixels doesn't fit in the cache"
    return None


def _departs(block: nn.Module, settings: BlockS | BlockL, part: str, x: Tensor) -> str | None:
    """Return how the block differs from its description, or why x doesn't fit it; None if all is well."""
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
        return None if dtype == torch.bfloat16 else f"autocast uses {dtype}, not bfloat16"
    return None if parameter.dtype == x.dtype else f"its input is {x.dtype}, but its parameters are {parameter.dtype}"


def _in_bfloat16(x: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.bfloat16 or autocast


class _Normalized:
    """LayerNorm(x) as `Features` of `kbnet.nn.context`: averages over its pixels without storing it."""

    def __init__(self, x: Tensor, norm: LayerNorm2d) -> None:
        self.x, self.norm = x, norm

    @property
    def shape(self) -> Sequence[int]:
        return self.x.shape

    def inside(self, halo: int) -> "_Normalized":
        # The norm acts on single pixels, so cropping commutes with it.
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
    """Return the length of each cell along one side; the last may be smaller."""
    return torch.tensor([float(min(cell, length - start)) for start in range(0, length, cell)])
