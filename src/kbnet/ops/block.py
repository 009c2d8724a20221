"""A whole block of a network as one operator of the compiled kernels, for inference on the CPU (forward only).

The kernels compute tile by tile what `kbnet.nn.blocks` defines layer by layer, so they store nothing between a block's
input and output for the whole image. `kbnet.nn.fused` decides when to call the operator, and passes the parameters.
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
    """Run the fusion half of a block, and the feed-forward half if its parameters are given, [B,C,H,W] -> [B,C,H,W].

    Args:
        x: the block's input, float32 or bfloat16, any memory format.
        means: output of the channel branch, [B or 1, D, h, w] float32: one value per cell, interpolated bilinearly
            between the centres of cells. A single cell (h = w = 1) covers the whole image.
        fusion: parameters in the order of `kbnet.description.MIXED`, None for those that are absent.
        feed_forward: parameters in the order of `kbnet.description.FEED_FORWARD`, or an empty sequence.
        cell: side of a cell of `means` in pixels.
        bases, group_channels, kernel_size: N, G and k of kernel basis attention.
        head: hidden width of the coefficient head.
        static_group, static_kernel: channels per group and kernel size of the static branch's convolution.
        gelu: whether the static branch ends in a GELU (KBNet-L).
        bfloat16: multiply in bfloat16 and accumulate in float32, if the processor supports it.
        eps: epsilon of the norms.

    Returns:
        [B,C,H,W] in the dtype and memory format of `x`.

    Raises:
        InvalidInputError: the parameters don't fit together.
    """
    if len(feed_forward) not in (0, len(FEED_FORWARD)):
        raise InvalidInputError(f"expected 0 or {len(FEED_FORWARD)} feed-forward parameters, got {len(feed_forward)}")
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
        raise InvalidInputError(f"the block's parameters don't fit together: {error}") from error
    return y


@fused_block.register_fake
def _(x: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty_like(x)


@custom_op("kbnet::normalized_cell_sums", mutates_args=())
def normalized_cell_sums(x: Tensor, weight: Tensor, bias: Tensor, rows: int, cols: int, eps: float) -> Tensor:
    """Sum LayerNorm(x) over cells of `rows` x `cols` pixels, [B,C,H,W] -> [B,C,ceil(H/rows),ceil(W/cols)] float32.

    The norm is over the channels of each pixel, with affine parameters [C]. The normalized image is never stored.
    """
    batch, channels, height, width = x.shape
    # Always contiguous, because the kernels write rows of cells; dtype and device don't follow torch's defaults.
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
    """Return the parameters as the kernels read them: contiguous, float32 or bfloat16."""
    return [None if p is None else _readable(p.detach()).contiguous() for p in parameters]


def _readable(p: Tensor) -> Tensor:
    return p if p.dtype in (torch.float32, torch.bfloat16) else p.float()
