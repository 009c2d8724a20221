"""Blocks as one call of the compiled kernels, or one per half in training, where these can run them.

See `kbnet.ops.block` and `kbnet.ops.training`. The modules of `kbnet.nn.blocks` remain the definition: they are what is
exported and compared with, and every call that is not plain inference or training on a CPU goes through them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kbnet.nn.context import Computed, FullFrame
from kbnet.nn.layers import ChannelBranch, CoefficientHead, KernelBasisAttention, LayerNorm2d
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


def refuses_here() -> str | None:
    """Why no block can run as one call in this process, whatever its input; None if one can."""
    if os.environ.get("KBNET_FUSED") == "off":
        return "KBNET_FUSED is off"
    return native.refuses_here()


def refuses(block: nn.Module, x: Tensor) -> str | None:
    """Why a block cannot run on x [B,C,H,W] as one call; None if it can.

    Setting KBNET_FUSED=off in the environment refuses every call: the layers then run one by one, to compare with.
    """
    if block.training or torch.is_grad_enabled():
        return "it computes no gradients; use eval() and torch.inference_mode()"
    reason = _refuses_always(block, x)
    if reason is not None:
        return reason
    limit = MAX_CHANNELS_BFLOAT16 if _in_bfloat16(x) else MAX_CHANNELS
    if x.shape[1] > limit:
        return f"with more than {limit} channels its layers are faster one by one"
    return None


def refuses_training(block: nn.Module, x: Tensor) -> str | None:
    """Why the halves of a block cannot be trained on x [B,C,H,W] as one call each; None if they can."""
    if not torch.is_grad_enabled():
        return "no gradients are wanted"
    reason = _refuses_always(block, x)
    if reason is not None:
        return reason
    if _in_bfloat16(x) or any(t.dtype != torch.float32 for t in (x, *block.parameters())):
        return "training as one call is in float32"
    if x.shape[1] > MAX_TRAINED_CHANNELS:
        return f"with more than {MAX_TRAINED_CHANNELS} channels its layers are faster one by one"
    return None


def _refuses_always(block: nn.Module, x: Tensor) -> str | None:
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return "the network is being traced, and a graph wants its layers"
    parameter = next(block.parameters())
    reason = refuses_here() or native.refuses(x, parameter) or native.refuses(parameter, parameter)
    if reason is not None:
        return reason
    # A hook wants to see a layer's own input and output.
    if any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in block.modules()
    ):
        return "one of its layers has a hook"
    return None


@dataclass(frozen=True)
class FusionLayers:
    """The layers of a block's fusion half, `x + out_scale * out(product of the branches of norm(x))`."""

    norm: LayerNorm2d
    channel_branch: ChannelBranch
    static_branch: nn.Sequential
    adaptive_in: nn.Sequential
    coefficients: CoefficientHead
    kba: KernelBasisAttention
    kba_scale: Tensor
    out: nn.Module
    out_scale: Tensor | None = None
    gelu: bool = False
    """Whether the static branch ends in a GELU (KBNet-L)."""

    def parameters(self) -> list[Tensor | None]:
        """In the order of csrc/problem.h, FusionParameter; None for a bias or scale that there is not."""
        head = (self.coefficients.grouped, self.coefficients.expand, self.coefficients.projection)
        layers = (self.norm, self.channel_branch.mix, *self.static_branch, *self.adaptive_in, *head)
        flat = [p for layer in layers for p in parameters(layer)]
        kernels = (self.coefficients.scale, self.kba.weight, self.kba.bias, self.kba_scale)
        return [*flat, *kernels, *parameters(self.out), self.out_scale]


def block(x: Tensor, context: FullFrame, layers: FusionLayers, feed_forward: Sequence[Tensor | None] = ()) -> Tensor:
    """The fusion half, and the feed-forward half if its parameters are given, in inference; [B,C,H,W] -> the same.

    Call it only where `refuses` does not.
    """
    means, cell = layers.channel_branch.grid(_Normalized(x, layers.norm), context)
    norm_weight, norm_bias, _, _, *others = layers.parameters()  # the channel branch has been mixed already
    _, static = layers.static_branch
    assert isinstance(static, nn.Conv2d)
    group_channels, kernel_size, _ = layers.kba.taps
    y: Tensor = fused_block(
        x,
        means,
        [norm_weight, norm_bias, *others],
        feed_forward,
        cell=cell,
        bases=layers.kba.weight.shape[0],
        group_channels=group_channels,
        kernel_size=kernel_size,
        head=layers.coefficients.grouped.out_channels,
        static_group=static.in_channels // static.groups,
        static_kernel=static.kernel_size[0],
        gelu=layers.gelu,
        bfloat16=_in_bfloat16(x),
        eps=layers.norm.eps,
    )
    return y


def feed_forward(x: Tensor, parameters: Sequence[Tensor], eps: float, channels_last: bool) -> Tensor:
    """`x + second(gate(first(norm(x)))) * scale` for training, [B,C,H,W] -> the same, in the memory format asked for.

    Call it only where `refuses_training` does not.
    """
    y: Tensor = trained_feed_forward(x, parameters, eps, channels_last)
    return y


def fusion(x: Tensor, layers: FusionLayers) -> Tensor:
    """The fusion half for training, [B,C,H,W] -> the same.

    Call it only where neither `refuses_training` nor `refuses_fusion_training` does.
    """
    group_channels, kernel_size, _ = layers.kba.taps
    present = [p for p in layers.parameters() if p is not None]  # all: every layer of this block has a bias
    y: Tensor
    y, _ = trained_fusion(x, present, group_channels, kernel_size, layers.norm.eps)
    return y


def refuses_fusion_training(static_branch: nn.Sequential, x: Tensor, context: FullFrame) -> str | None:
    """Why the fusion half cannot be trained on x [B,C,H,W] as one call, where the block's other half can."""
    _, static = static_branch
    assert isinstance(static, nn.Conv2d)
    if static.kernel_size != (3, 3) or static.groups != x.shape[1]:
        return "its static branch is not the lightweight one"
    if type(context) is not FullFrame:
        return "its channel branch does not average over the image"
    if x.shape[0] < torch.get_num_threads():
        return "threads work on whole images, and there are too few"
    if x.shape[2] * x.shape[3] > MAX_TRAINED_PIXELS:
        return f"with more than {MAX_TRAINED_PIXELS} pixels an image leaves the cache"
    return None


def parameters(layer: nn.Module) -> list[Tensor | None]:
    """Weight and bias of a layer."""
    return [layer.weight, layer.bias]  # type: ignore[list-item]  # a module's attributes are tensors or modules to mypy


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
