"""Kernel basis attention as a torch operator: schema, fake kernel, gradient, autocast rule and the public function."""

import torch
from torch import Tensor
from torch.library import custom_op, register_autocast

from kbnet.errors import InvalidInputError
from kbnet.ops import transforms, triton
from kbnet.ops.backends import choose
from kbnet.ops.inlining import show_launches

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def kernel_basis_attention(
    x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Filter every pixel with its own mixture of N learned kernels (KBNet, arXiv 2303.02881, section 3.1).

    There are `C / G` groups, and output channel `c` reads the `G` input channels of its group:

        kernel at pixel p:  K_p[c,j,u,v] = sum_n coefficients[n,p] * weight[n,c,j,u,v]
        y[c,p] = sum_{j,u,v} K_p[c,j,u,v] * x[group(c)*G + j, p + (u,v) - k//2]  +  sum_n coefficients[n,p] * bias[n,c]

    The stride is 1, with zero padding of k//2. Coefficients are unbounded: there is no softmax. The operator is
    differentiable in all four tensors, in reverse and forward mode and to any order, also under the transforms of
    torch.func. All tensors share one dtype and device, in any memory format. Half precisions accumulate in float32.

    Args:
        x: features [B, C, H, W]; float32, float64, bfloat16 or float16.
        coefficients: one weight per basis and pixel, [B, N, H, W].
        weight: kernel bases [N, C, G, k, k], with odd k, and C divisible by G.
        bias: biases of the bases, [N, C].
        backend: "auto", or a name from `kbnet.ops.available_backends()`.

    Returns:
        [B, C, H, W] in the dtype of `x`.

    Raises:
        InvalidInputError: shapes, dtypes or devices don't match.
        BackendError: `backend` is unknown or can't run this call.

    Example:
        >>> import torch
        >>> from kbnet.ops import kernel_basis_attention
        >>> x, coefficients = torch.randn(1, 8, 16, 16), torch.randn(1, 32, 16, 16)
        >>> kernel_basis_attention(x, coefficients, torch.randn(32, 8, 4, 3, 3), torch.randn(32, 8)).shape
        torch.Size([1, 8, 16, 16])
    """
    return transforms.forward(x, coefficients, weight, bias, backend)


def _check(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> None:
    if x.ndim != 4 or coefficients.ndim != 4 or weight.ndim != 5 or bias.ndim != 2:
        raise InvalidInputError(
            "expected x [B,C,H,W], coefficients [B,N,H,W], weight [N,C,G,k,k] and bias [N,C], got "
            f"{list(x.shape)}, {list(coefficients.shape)}, {list(weight.shape)} and {list(bias.shape)}"
        )
    batch, channels, height, width = x.shape
    bases, weight_channels, group_channels, k, k_across = weight.shape
    if bases < 1 or channels < 1:
        raise InvalidInputError(f"expected at least one basis and one channel, got weight {list(weight.shape)}")
    if coefficients.shape != (batch, bases, height, width):
        raise InvalidInputError(
            f"expected coefficients [B,N,H,W] = {[batch, bases, height, width]}, got {list(coefficients.shape)}"
        )
    if weight_channels != channels or group_channels < 1 or channels % group_channels:
        raise InvalidInputError(
            f"expected weight [N,C,G,k,k] with C = {channels} divisible by G, got {list(weight.shape)}"
        )
    if k != k_across or k % 2 == 0:
        raise InvalidInputError(f"expected a square kernel of odd size, got {k}x{k_across}")
    if bias.shape != (bases, channels):
        raise InvalidInputError(f"expected bias [N,C] = {[bases, channels]}, got {list(bias.shape)}")
    tensors = (x, coefficients, weight, bias)
    if len({t.dtype for t in tensors}) > 1 or x.dtype not in _FLOATS:
        raise InvalidInputError(f"expected four tensors of one float dtype, got {[str(t.dtype) for t in tensors]}")
    if len({t.device for t in tensors}) > 1:
        raise InvalidInputError(f"expected four tensors on the same device, got {[str(t.device) for t in tensors]}")


@custom_op("kbnet::kernel_basis_attention", mutates_args=())
def _forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    _check(x, coefficients, weight, bias)
    transforms.refuse_tangents()
    return choose(backend, x, weight).forward(x, coefficients, weight, bias)


@_forward.register_fake
def _(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
    _check(x, coefficients, weight, bias)
    return torch.empty_like(x)


@custom_op("kbnet::kernel_basis_attention_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    transforms.refuse_tangents()
    return choose(backend, x, weight).backward(dy, x, coefficients, weight, bias)


@_backward.register_fake
def _(
    dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(coefficients), torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # torch types neither argument
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, dy):  # type: ignore[no-untyped-def]  # torch types neither argument
    x, coefficients, weight, bias = ctx.saved_tensors
    return *transforms.backward(dy, x, coefficients, weight, bias, ctx.backend), None


_forward.register_autograd(_gradients, setup_context=_save)


def _save_gradients(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # torch types neither argument
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _second_gradients(ctx, *grads):  # type: ignore[no-untyped-def]  # torch types neither argument
    dy, *tensors = ctx.saved_tensors
    return *transforms.double_backward(dy, tensors, grads, ctx.backend), None


_backward.register_autograd(_second_gradients, setup_context=_save_gradients)

# float16 overflows in these networks and bfloat16 doesn't, so autocast always means bfloat16 here.
for _device in ("cpu", "cuda"):
    register_autocast("kbnet::kernel_basis_attention", _device, torch.bfloat16)

show_launches(_forward, triton.forward)
show_launches(_backward, triton.backward)
