"""The two blocks of KBNet: multi-axis feature fusion (section 3.2 of the paper), then feed-forward or attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.description import BlockL, BlockS
from kbnet.nn import conformity, fused
from kbnet.nn.context import FullFrame
from kbnet.nn.layers import (
    ChannelBranch,
    CoefficientHead,
    KernelBasisAttention,
    LayerNorm2d,
    SimpleGate,
    TransposedAttention,
)


def _scale(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))


class KBBlockS(nn.Module):
    """The block of KBNet-S, [B,C,H,W] -> [B,C,H,W]: fusion, then a gated feed-forward half, each on normalized input.

    Args:
        channels: C.
        coefficient_width: hidden width of the coefficient head.
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        ffn_scale: ratio of the feed-forward half's hidden width, before its gate halves it, to C.
        lightweight: use 1x1 and 3x3 depthwise convolutions in the static branch, instead of 1x1 and 5x5 in C/4 groups.
    """

    def __init__(
        self,
        channels: int,
        *,
        coefficient_width: int,
        bases: int = 32,
        group_channels: int = 4,
        kernel_size: int = 3,
        ffn_scale: float = 2.0,
        lightweight: bool = False,
    ) -> None:
        super().__init__()
        self.settings = BlockS(channels, coefficient_width, bases, group_channels, kernel_size, ffn_scale, lightweight)
        c, hidden = channels, int(ffn_scale * channels)
        self.fusion_norm = LayerNorm2d(c)
        self.channel_branch = ChannelBranch(c, c)
        self.static_branch = nn.Sequential(
            nn.Conv2d(c, c, 1),
            nn.Conv2d(c, c, 3, padding=1, groups=c) if lightweight else nn.Conv2d(c, c, 5, padding=2, groups=c // 4),
        )
        self.adaptive_in = nn.Sequential(nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 3, padding=1, groups=c))
        self.coefficients = CoefficientHead(c, bases, coefficient_width)
        self.kba = KernelBasisAttention(c, bases, group_channels, kernel_size)
        self.kba_scale = _scale(c)
        self.fusion_out = nn.Conv2d(c, c, 1)
        self.fusion_scale = _scale(c)

        self.ffn_norm = LayerNorm2d(c)
        self.ffn_in = nn.Conv2d(c, hidden, 1)
        self.gate = SimpleGate()
        self.ffn_out = nn.Conv2d(hidden // 2, c, 1)
        self.ffn_scale = _scale(c)

    def forward(self, x: Tensor, context: FullFrame) -> Tensor:
        plan = fused.plan(self, x, context)
        given = x
        if plan.fusion is None:
            x = fused.fusion(self, x)
        else:
            u = self.fusion_norm(x)
            v = self.adaptive_in(u)
            adaptive = self.kba(v, self.coefficients(u)) * self.kba_scale + v
            merged = self.fusion_out(adaptive * self.static_branch(u) * self.channel_branch(u, context))
            x = x + merged * self.fusion_scale
        if plan.feed_forward is None:
            return fused.feed_forward(self, x, given.is_contiguous(memory_format=torch.channels_last))
        y: Tensor = x + self.ffn_out(self.gate(self.ffn_in(self.ffn_norm(x)))) * self.ffn_scale
        return y


class MultiAxisFusion(nn.Module):
    """The fusion of KBNet-L's block, [B,C,H,W] -> [B,C,H,W]: the product of three branches of `hidden` channels."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        coefficient_width: int,
        bases: int,
        group_channels: int,
        kernel_size: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.channel_branch = ChannelBranch(channels, hidden)
        self.static_branch = self._pointwise_depthwise(channels, hidden, bias)
        self.adaptive_in = self._pointwise_depthwise(channels, hidden, bias)
        self.coefficients = CoefficientHead(channels, bases, coefficient_width)
        self.kba = KernelBasisAttention(hidden, bases, group_channels, kernel_size)
        self.kba_scale = _scale(hidden)
        self.out = nn.Conv2d(hidden, channels, 1, bias=bias)

    @staticmethod
    def _pointwise_depthwise(channels: int, hidden: int, bias: bool) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=bias),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=bias),
        )

    def forward(self, x: Tensor, context: FullFrame) -> Tensor:
        v = self.adaptive_in(x)
        adaptive = self.kba(v, self.coefficients(x)) * self.kba_scale + v
        y: Tensor = self.out(F.gelu(self.static_branch(x)) * adaptive * self.channel_branch(x, context))
        return y


class KBBlockL(nn.Module):
    """The block of KBNet-L, [B,C,H,W] -> [B,C,H,W]: fusion, then transposed attention, each on normalized input.

    Args:
        channels: C.
        heads: number of attention heads; must divide C.
        coefficient_width: hidden width of the coefficient head.
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        expansion: ratio of the fusion's hidden width to C.
        bias: whether the convolutions outside the channel branch and the coefficient head have biases.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        coefficient_width: int,
        bases: int = 32,
        group_channels: int = 2,
        kernel_size: int = 3,
        expansion: float = 1.5,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.settings = BlockL(channels, heads, coefficient_width, bases, group_channels, kernel_size, expansion, bias)
        self.fusion_norm = LayerNorm2d(channels)
        self.fusion = MultiAxisFusion(
            channels,
            int(channels * expansion),
            coefficient_width=coefficient_width,
            bases=bases,
            group_channels=group_channels,
            kernel_size=kernel_size,
            bias=bias,
        )
        self.attention_norm = LayerNorm2d(channels)
        self.attention = TransposedAttention(channels, heads, bias)

    def forward(self, x: Tensor, context: FullFrame) -> Tensor:
        x = x + self.fusion(self.fusion_norm(x), context)
        y: Tensor = x + self.attention(self.attention_norm(x), context)
        return y


conformity.know(KBBlockS, KBBlockL, MultiAxisFusion)
