"""A whole block of the network as one operator, for inference on the CPU: forward only, by the compiled kernels.

What `kbnet.nn.blocks` spells out layer by layer is computed here tile by tile, so that nothing between a block's input
and its output is stored for the whole image. `kbnet.nn.fused` decides when, and hands over the parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from kbnet.description import FEED_FORWARD
from kbnet.engine.native import extension
from kbnet.errors import InvalidInputError
from kbnet.ops import native

Parameters = Sequence[Tensor | None]


@custom_op("kbnet::fused_block", mutates_args=())
def fused_block(
    x: Tensor,
    means: Tensor,
    fusion: Sequence[Tensor | None],
    feed_forward: Sequence[Tensor | None],
    cell: int,
    bases: int,
    group_channels: int,
    kernel_size: int,
    head: int,
    static_group: int,
    static_kernel: int,
    gelu: bool,
    bfloat16: bool,
    eps: float,
) -> Tensor:
    """The fusion half of a block, and the feed-forward half of KBNet-S's, x [B,C,H,W] -> [B,C,H,W].

    Args:
        x: the block's input, float32 or bfloat16, any memory format.
        means: the channel branch, [B or 1, D, h, w] float32: one value a cell, interpolated bilinearly between the
            centres of cells; a single one (h = w = 1) holds for the whole image.
        fusion: parameters in the order of `kbnet.description.MIXED`, None where there is none.
        feed_forward: in that of `kbnet.description.FEED_FORWARD`, or nothing.
        cell: side of a cell of `means`, pixels.
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        head: hidden width of the coefficient head.
        static_group, static_kernel: channels a group and kernel size of the static branch's convolution.
        gelu: whether the static branch ends in a GELU (KBNet-L).
        bfloat16: multiply in bfloat16 with float32 sums, where the processor can.
        eps: of the norms.

    Raises:
        InvalidInputError: a parameter does not fit.
    """
    if len(feed_forward) not in (0, len(FEED_FORWARD)):
        raise InvalidInputError(f"expected 0 or {len(FEED_FORWARD)} parameters, got {len(feed_forward)}")
    y = torch.empty_like(x)
    settings = {"paired": bfloat16, "eps": eps, **native.settings()}
    means = means.detach().float().contiguous()
    try:
        extension().fusion(
            x.detach(),
            y,
            means,
            cell,
            _plain(fusion),
            bases=bases,
            group=group_channels,
            kernel=kernel_size,
            head=head,
            static_group=static_group,
            static_kernel=static_kernel,
            gelu=gelu,
            **settings,
        )
        if feed_forward:
            out = feed_forward[FEED_FORWARD.index("out")]
            inner = out.numel() // x.shape[1] if out is not None else 0
            extension().feed_forward(y, y, _plain(feed_forward), hidden=inner, **settings)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the block's parameters do not fit together: {error}") from error
    return y


@fused_block.register_fake
def _(x: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(x)


@custom_op("kbnet::normalized_cell_sums", mutates_args=())
def normalized_cell_sums(x: Tensor, weight: Tensor, bias: Tensor, rows: int, cols: int, eps: float) -> Tensor:
    """Sums of LayerNorm(x) over cells of rows x cols pixels, x [B,C,H,W] -> [B,C,ceil(H/rows),ceil(W/cols)] float32.

    The norm is over the channels of each pixel with affine parameters [C]; the normalised image is not stored.
    """
    batch, channels, height, width = x.shape
    # Contiguous whatever the format of x: the kernels write rows of cells. Not of torch's default dtype and device.
    size = (batch, channels, -(-height // rows), -(-width // cols))
    sums = torch.empty(size, dtype=torch.float32, device=x.device)
    parameters = _plain([weight, bias])
    extension().cell_sums(x.detach(), parameters, sums, cell_rows=rows, cell_cols=cols, eps=eps, **native.settings())
    return sums


@normalized_cell_sums.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, rows: int, cols: int, eps: float) -> Tensor:
    batch, channels, height, width = x.shape
    return x.new_empty((batch, channels, -(-height // rows), -(-width // cols)), dtype=torch.float32)


def _plain(parameters: Parameters) -> list[Tensor | None]:
    """Contiguous, float32 or bfloat16, as the kernels read them."""
    return [None if p is None else _readable(p.detach()).contiguous() for p in parameters]


def _readable(p: Tensor) -> Tensor:
    return p if p.dtype in (torch.float32, torch.bfloat16) else p.float()
