"""The layers of KBNet."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.errors import InvalidInputError
from kbnet.nn.context import FullFrame, expand
from kbnet.ops import kernel_basis_attention


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each pixel, [B,C,H,W] -> [B,C,H,W]; affine, with biased variance."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # In channels-last memory the permuted view is contiguous, so layer_norm makes no copy.
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class SimpleGate(nn.Module):
    """Multiplies one half of the channels by the other, [B,2C,H,W] -> [B,C,H,W] (NAFNet, arXiv 2204.04676)."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second


class KernelBasisAttention(nn.Module):
    """Kernel basis attention with N learned kernel bases; a thin wrapper around the operator of `kbnet.ops`.

    Args:
        channels: C, the number of input and output channels.
        bases: N, the number of kernel bases.
        group_channels: G, the number of input channels that each output channel reads; must divide C.
        kernel_size: k; must be odd.

    Raises:
        InvalidInputError: `group_channels` doesn't divide `channels`.
    """

    def __init__(self, channels: int, bases: int = 32, group_channels: int = 4, kernel_size: int = 3) -> None:
        super().__init__()
        if channels % group_channels:
            raise InvalidInputError(
                f"expected channels to be divisible by group_channels ({group_channels}), got {channels}"
            )
        self.taps = (group_channels, kernel_size, kernel_size)
        # [N,C,G*k*k] rather than [N,C,G,k,k]: Module.to(memory_format=torch.channels_last) fails on rank 5.
        self.weight = nn.Parameter(torch.empty(bases, channels, math.prod(self.taps)))
        self.bias = nn.Parameter(torch.empty(bases, channels))
        # Equals kaiming_uniform_ with a = sqrt(5) on the authors' tensor of shape [1,N,C*G*k*k].
        bound = 1 / math.sqrt(bases * channels * group_channels * kernel_size**2)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """x [B,C,H,W], coefficients [B,N,H,W] -> [B,C,H,W]."""
        return kernel_basis_attention(x, coefficients, self.weight.unflatten(2, self.taps), self.bias)


class CoefficientHead(nn.Module):
    """Predicts the mixing coefficients of each pixel, [B,C,H,W] -> [B,N,H,W] (section 3.1 of the paper).

    Computes `head(x) * scale + projection(x)`. The head is a 3x3 convolution in `hidden` groups, a SimpleGate and a 1x1
    convolution.

    Args:
        channels: C.
        bases: N.
        hidden: hidden width of the head; even, and must divide C.

    Raises:
        InvalidInputError: `hidden` is odd or doesn't divide `channels`.
    """

    def __init__(self, channels: int, bases: int, hidden: int) -> None:
        super().__init__()
        if channels % hidden or hidden % 2:
            raise InvalidInputError(f"expected hidden to be even and to divide channels ({channels}), got {hidden}")
        self.grouped = nn.Conv2d(channels, hidden, 3, padding=1, groups=hidden)
        self.gate = SimpleGate()
        self.expand = nn.Conv2d(hidden // 2, bases, 1)
        self.projection = nn.Conv2d(channels, bases, 1)
        self.scale = nn.Parameter(torch.full((1, bases, 1, 1), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.gate(self.grouped(x))) * self.scale + self.projection(x)
        return y


class ChannelBranch(nn.Module):
    """Computes channel weights from averages over the image, [B,C,H,W] -> [B,D,1,1] ([B,D,H,W] with a `Local` context).

    Args:
        channels: C.
        out_channels: D.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, context: FullFrame) -> Tensor:
        means, cell = context.grid(x)
        # Mixing channels commutes with interpolating between pixels, so mix the smaller tensor.
        mixed: Tensor = self.mix(means.to(self.mix.weight.dtype))
        return expand(mixed, cell, x.shape[2], x.shape[3])


class TransposedAttention(nn.Module):
    """Attention across channels instead of pixels, [B,C,H,W] -> [B,C,H,W] (Restormer, arXiv 2111.09881, section 3.1).

    Each head normalizes queries and keys to unit length along the pixels. Its C/heads x C/heads attention matrix
    depends on the image only through averages over pixels, which `context` provides.

    Args:
        channels: C.
        heads: number of attention heads; must divide C.
        bias: whether the convolutions have biases.
    """

    def __init__(self, channels: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, channels * 3, 1, bias=bias)
        self.qkv_depthwise = nn.Conv2d(channels * 3, channels * 3, 3, padding=1, groups=channels * 3, bias=bias)
        self.out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor, context: FullFrame) -> Tensor:
        q, k, v = self.qkv_depthwise(self.qkv(x)).chunk(3, dim=1)
        # Means instead of sums over pixels: they don't depend on the tile size, and the cosines stay the same.
        seen_q, seen_k = (self._per_head(context.pixels(t)) for t in (q, k))  # [B,heads,C/heads,pixels]
        pixels = seen_q.shape[-1]
        gram = context.share(seen_q @ seen_k.transpose(-2, -1) / pixels)
        length_q = context.share(seen_q.square().mean(-1, keepdim=True)).sqrt()
        length_k = context.share(seen_k.square().mean(-1, keepdim=True)).sqrt().transpose(-2, -1)
        # F.normalize clamps the root of a sum at 1e-12; for the root of a mean, that is smaller by sqrt(pixels).
        eps = 1e-12 / math.sqrt(pixels)
        attention = gram / (length_q.clamp_min(eps) * length_k.clamp_min(eps)) * self.temperature
        # The averages can be float32 when everything else is bfloat16.
        mixed = attention.softmax(-1).to(v.dtype) @ self._per_head(v)
        y: Tensor = self.out(mixed.flatten(1, 2).unflatten(-1, x.shape[2:]))
        return y

    def _per_head(self, t: Tensor) -> Tensor:
        y: Tensor = t.unflatten(1, (self.heads, -1)).flatten(3)
        return y
