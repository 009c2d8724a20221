"""Runs the halves of a block in training as one call of the compiled kernels each; see `kbnet.ops.training`.

The modules of `kbnet.nn.blocks` remain the definition: they handle every call other than plain training on a CPU of a
block that is exactly what its description says. Without gradients, `kbnet.nn.compiled` runs whole networks.
"""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kbnet.description import FUSION, BlockS, describe
from kbnet.nn.conformity import PLAIN, departure
from kbnet.nn.context import FullFrame
from kbnet.ops import native
from kbnet.ops.training import feed_forward as trained_feed_forward
from kbnet.ops.training import fusion as trained_fusion

MAX_TRAINED_CHANNELS = 128
"""With more channels, matrix products dominate the time, and those of PyTorch's libraries measured faster."""

MAX_TRAINED_PIXELS = 128 * 128
"""Largest image, in pixels, that trains as one call per half."""


@dataclass(frozen=True)
class Plan:
    """Which halves of a block run as one compiled call each: None if the half does, else why its layers run."""

    fusion: str | None
    feed_forward: str | None


def plan(block: nn.Module, x: Tensor, context: FullFrame) -> Plan:
    """Decide how a block (`KBBlockS`) runs on x [B,C,H,W]. The layers run if any check fails.

    Set the environment variable KBNET_FUSED=off to always run the layers, for comparison.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        # First, so that a compiler doesn't trace the other checks.
        traced = "the network is being compiled or traced, which needs its layers"
        return Plan(traced, traced)
    settings = getattr(block, "settings", None)
    if not isinstance(settings, BlockS):
        return Plan("it isn't a block of KBNet-S", "it isn't a block of KBNet-S")
    reason = refuses_here() or refuses_call(x)
    if reason is None and not torch.is_grad_enabled():
        reason = "gradients are disabled"
    if reason is None and (x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")):
        reason = "training as one call requires float32"
    if reason is None and settings.channels > MAX_TRAINED_CHANNELS:
        reason = f"with more than {MAX_TRAINED_CHANNELS} channels, running layer by layer is faster"
    if reason is not None:
        return Plan(reason, reason)
    fusion = _refuses_fusion(settings, x, context) or _departs(block, settings, "fusion", x)
    return Plan(fusion, _departs(block, settings, "feed_forward", x))


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
    """Return why compiled kernels can't stand in for modules on this machine or in this context; None if they can."""
    if os.environ.get("KBNET_FUSED") == "off":
        return "KBNET_FUSED is off"
    if _layers_alone.get():
        return "layers_alone() is active"
    return native.refuses_here()


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

    def __init__(self, settings: BlockS) -> None:
        described = describe(settings)
        self.layers = {
            "fusion": tuple(layer for layer in described if layer.half in ("", "fusion")),
            "feed_forward": tuple(layer for layer in described if layer.half in ("", "feed_forward")),
        }
        self.fusion = [_split(described.fusion[role]) for role in FUSION]
        self.feed_forward = [_split(path) for path in described.feed_forward.values()]
        layer = {role: described.layer_of(role) for role in ("norm_weight", "static_conv", "bases")}
        group_channels, kernel_size, _ = layer["bases"].settings["taps"]
        static = layer["static_conv"]
        self.settings: dict[str, Any] = {
            "group_channels": group_channels,
            "kernel_size": kernel_size,
            "static_group": static.shape("weight")[1],
            "static_kernel": static.shape("weight")[2],
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
    """Return why the compiled kernels can't stand in for modules on x; None if they can."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return "forward-mode differentiation or a torch.func transform is active, which the kernels don't support"
    if type(x) not in PLAIN or x.ndim != 4:
        return "its input is not a plain tensor [B,C,H,W]"
    return native.refuses(x, x)


def _refuses_fusion(settings: BlockS, x: Tensor, context: FullFrame) -> str | None:
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


def _departs(block: nn.Module, settings: BlockS, part: str, x: Tensor) -> str | None:
    """Return how the block differs from its description, or why x doesn't fit it; None if all is well."""
    if x.shape[1] != settings.channels:
        return f"its input has {x.shape[1]} channels, not {settings.channels}"
    call = _call(settings)
    reason = departure(block, call.layers[part])
    if reason is not None:
        return reason
    parameter = _parameter(block, (call.fusion if part == "fusion" else call.feed_forward)[0])
    assert parameter is not None
    if parameter.device.type != "cpu" or parameter.dtype != x.dtype:
        return f"its parameters are {parameter.dtype} on {parameter.device}"
    return None
