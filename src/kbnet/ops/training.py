"""The two halves of a block as one operator each, for training on the CPU, with compiled forward and backward passes.

The backward pass saves little more than a half's input and recomputes the rest, which is cheaper than reading it from
memory. The operators compute in float32 in any memory format. Results depend on the number of threads, but not on
timing. `kbnet.nn.fused` decides when to call them, and passes the parameters. Neither is twice differentiable: a second
derivative raises BackendError.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from kbnet.description import FEED_FORWARD, FUSION
from kbnet.engine.native import extension
from kbnet.errors import BackendError, InvalidInputError
from kbnet.ops import native


@custom_op("kbnet::feed_forward", mutates_args=())
def feed_forward(x: Tensor, parameters: Sequence[Tensor], eps: float, channels_last: bool) -> Tensor:
    """Run the feed-forward half of KBNet-S's block, `x + scale * out(gate(in(norm(x))))`, [B,C,H,W] -> [B,C,H,W].

    Args:
        x: float32, any memory format.
        parameters: float32, in the order of `kbnet.description.FEED_FORWARD`: weight and bias of the norm [C], of the
            first 1x1 convolution [2D,C,1,1] and of the second [C,D,1,1], then the scale of C values.
        eps: epsilon of the norm.
        channels_last: whether the result is in channels-last memory format; otherwise it is contiguous.

    Raises:
        InvalidInputError: the parameters don't fit together.
    """
    y = _empty(x, channels_last)
    try:
        plain = _plain(parameters, len(FEED_FORWARD))
        extension().feed_forward_training(
            x.detach(), _addresses(plain), y, hidden=_hidden(x, plain), eps=eps, **native.settings()
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the parameters don't fit together: {error}") from error
    return y


@feed_forward.register_fake
def _(x: Tensor, parameters: Sequence[Tensor], eps: float, channels_last: bool) -> Tensor:
    return _empty(x, channels_last)


@custom_op("kbnet::feed_forward_backward", mutates_args=())
def feed_forward_backward(dy: Tensor, x: Tensor, parameters: Sequence[Tensor], eps: float) -> list[Tensor]:
    """Return the gradients of x and of each parameter."""
    dx, plain = torch.empty_like(x), _plain(parameters, len(FEED_FORWARD))
    gradients = [torch.empty_like(p) for p in plain]
    extension().feed_forward_backward(
        dy.detach(),
        x.detach(),
        _addresses(plain),
        dx,
        _addresses(gradients),
        hidden=_hidden(x, plain),
        eps=eps,
        **native.settings(),
    )
    return [dx, *map(native.like, gradients, parameters)]


@feed_forward_backward.register_fake
def _(dy: Tensor, x: Tensor, parameters: Sequence[Tensor], eps: float) -> list[Tensor]:
    return [torch.empty_like(t) for t in (x, *parameters)]


def _save_feed_forward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # torch types neither argument
    x, parameters, ctx.eps, _ = inputs
    ctx.save_for_backward(x, *parameters)


def _feed_forward_gradients(ctx, dy):  # type: ignore[no-untyped-def]  # torch types neither argument
    x, *parameters = ctx.saved_tensors
    dx, *gradients = torch.ops.kbnet.feed_forward_backward(dy, x, parameters, ctx.eps)
    return dx, gradients, None, None


def _refuse_second_derivative(ctx, *_):  # type: ignore[no-untyped-def]  # torch types neither argument
    raise BackendError(
        "block halves that run as one call of the compiled kernels have no second derivative; set the environment "
        "variable KBNET_FUSED=off to run the layers, which are differentiable to any order"
    )


feed_forward_backward.register_autograd(_refuse_second_derivative)
feed_forward.register_autograd(_feed_forward_gradients, setup_context=_save_feed_forward)


@custom_op("kbnet::fusion", mutates_args=())
def fusion(
    x: Tensor, parameters: Sequence[Tensor], group_channels: int, kernel_size: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Run the fusion half of KBNet-S's lightweight block, `x + scale * out(product of the three branches of norm(x))`.

    The channel branch averages over the whole image.

    Args:
        x: [B,C,H,W] float32, any memory format.
        parameters: float32, in the order of `kbnet.description.FUSION`.
        group_channels, kernel_size: G and k of kernel basis attention.
        eps: epsilon of the norm.

    Returns:
        The output of the half [B,C,H,W], contiguous, because the feed-forward half reads that fastest; and the value of
        kernel basis attention [B,C,H,W] for the backward pass, which is not differentiable.

    Raises:
        InvalidInputError: the parameters don't fit together.
    """
    y, filtered = x.new_empty(x.shape), x.new_empty(x.shape)
    plain = _plain(parameters, len(FUSION))
    settings = _fusion_settings(plain, group_channels, kernel_size, eps)
    try:
        extension().fusion_training(x.detach(), _addresses(plain), y, filtered, **settings)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the parameters don't fit together: {error}") from error
    return y, filtered


@fusion.register_fake
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@custom_op("kbnet::fusion_backward", mutates_args=())
def fusion_backward(
    dy: Tensor,
    x: Tensor,
    filtered: Tensor,
    parameters: Sequence[Tensor],
    group_channels: int,
    kernel_size: int,
    eps: float,
) -> list[Tensor]:
    """Return the gradients of x and of each parameter."""
    dx, plain = torch.empty_like(x), _plain(parameters, len(FUSION))
    gradients = [torch.empty_like(p) for p in plain]
    settings = _fusion_settings(plain, group_channels, kernel_size, eps)
    extension().fusion_training_backward(
        dy.detach(), x.detach(), filtered.detach(), _addresses(plain), dx, _addresses(gradients), **settings
    )
    return [dx, *map(native.like, gradients, parameters)]


@fusion_backward.register_fake
def _(dy: Tensor, x: Tensor, filtered: Tensor, parameters: Sequence[Tensor], *_: object) -> list[Tensor]:
    return [torch.empty_like(t) for t in (x, *parameters)]


def _save_fusion(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # torch types neither argument
    x, parameters, *ctx.settings = inputs
    _, filtered = output
    ctx.mark_non_differentiable(filtered)
    ctx.save_for_backward(x, filtered, *parameters)


def _fusion_gradients(ctx, dy, _):  # type: ignore[no-untyped-def]  # torch types neither argument
    x, filtered, *parameters = ctx.saved_tensors
    dx, *gradients = torch.ops.kbnet.fusion_backward(dy, x, filtered, parameters, *ctx.settings)
    return dx, gradients, None, None, None


fusion_backward.register_autograd(_refuse_second_derivative)
fusion.register_autograd(_fusion_gradients, setup_context=_save_fusion)


def _fusion_settings(
    parameters: Sequence[Tensor], group_channels: int, kernel_size: int, eps: float
) -> dict[str, object]:
    of = dict(zip(FUSION, parameters, strict=True))
    return {
        "bases": of["bases"].shape[0],
        "group": group_channels,
        "kernel": kernel_size,
        "head": of["head_conv_bias"].numel(),
        "eps": eps,
        **native.settings(),
    }


def _empty(x: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _hidden(x: Tensor, parameters: Sequence[Tensor]) -> int:
    return parameters[FEED_FORWARD.index("out")].numel() // x.shape[1]


def _plain(parameters: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return the parameters as the kernels read them: contiguous, float32, on the CPU."""
    if len(parameters) != count:
        raise InvalidInputError(f"expected {count} parameters, got {len(parameters)}")
    for p in parameters:
        if p.dtype != torch.float32 or not p.is_cpu:
            raise InvalidInputError(f"expected float32 parameters on the CPU, got {p.dtype} on {p.device}")
    return [p.detach().contiguous() for p in parameters]


def _addresses(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """Return address and number of values of `_plain` tensors, which must outlive the call."""
    return [(t.data_ptr(), t.numel()) for t in tensors]
