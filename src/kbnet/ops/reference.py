"""Kernel basis attention in plain PyTorch: the executable specification of the operator.

Every other backend is tested against this file. It is written as

    y = sum_n a_n * (grouped_conv(x; W_n) + b_n)        (arXiv 2303.02881, section 3.1, bases applied before mixing)

This equals mixing a kernel for every pixel and applying it, with the same number of multiply-adds, but stores no kernel
per pixel. The N convolutions run as one, on one block of pixels at a time, so scratch memory is bounded for any image
size.

Shapes: x [B,C,H,W], coefficients [B,N,H,W], weight [N,C,G,k,k], bias [N,C] -> [B,C,H,W], with C/G groups: output
channel c reads the G input channels of its own group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

SCRATCH_BYTES = 48 * 2**20
"""Size of a block's largest intermediate, [B,N*C,h,w]; a block holds at most four of them at once."""

Block = tuple[slice, slice, slice]


def blocks(batch: int, height: int, width: int, bytes_per_pixel: int, limit: int = SCRATCH_BYTES) -> Iterator[Block]:
    """Split [batch, height, width] into blocks of at most `limit` bytes, as (images, rows, columns)."""
    if 0 in (batch, height, width):
        return
    pixels = max(1, limit // bytes_per_pixel)
    columns = min(width, pixels)
    rows = min(height, max(1, pixels // max(1, columns)))
    images = min(batch, max(1, pixels // max(1, rows * columns)))
    for i in range(0, batch, images):
        for r in range(0, height, rows):
            for c in range(0, width, columns):
                yield slice(i, i + images), slice(r, min(r + rows, height)), slice(c, min(c + columns, width))


def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the operator; the module docstring gives the shapes. Half precisions compute in float32."""
    dtype = _compute_dtype(x)
    stacked, stacked_bias = _stack(weight.to(dtype), bias.to(dtype))
    groups = x.shape[1] // weight.shape[2]
    y = torch.empty_like(x)
    for i, rows, cols in _blocks_of(x, weight):
        convolved = F.conv2d(
            _neighbourhood(x, i, rows, cols, weight.shape[-1] // 2).to(dtype), stacked, stacked_bias, groups=groups
        )
        a = coefficients[i, :, rows, cols].to(dtype)
        y[i, :, rows, cols] = _mix(_split(convolved, weight), a)
    return y


def backward(
    dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, coefficients, weight and bias, each in the shape and dtype of its tensor.

    With z_n = a_n * dy: dW_n = corr(x, z_n), dx = sum_n grouped_conv_transpose(z_n; W_n),
    da_n = sum_c dy[c] * (conv_n(x)[c] + b_n[c]), db_n = sum over pixels of z_n. The convolutions are recomputed
    instead of saved in the forward pass.
    """
    dtype = _compute_dtype(x)
    stacked, stacked_bias = _stack(weight.to(dtype), bias.to(dtype))
    groups = x.shape[1] // weight.shape[2]
    # In the dtype of x, to save a wider copy of the image; only pixels on block borders are rounded twice.
    dx, da = torch.zeros_like(x), torch.empty_like(coefficients)
    dw, db = torch.zeros_like(stacked), torch.zeros_like(stacked_bias)
    for i, rows, cols in _blocks_of(x, weight):
        around = _neighbourhood(x, i, rows, cols, weight.shape[-1] // 2).to(dtype)
        a, g = coefficients[i, :, rows, cols].to(dtype), dy[i, :, rows, cols].to(dtype)
        convolved = _split(F.conv2d(around, stacked, stacked_bias, groups=groups), weight)
        g_grouped = g.unflatten(1, (groups, 1, -1))
        da[i, :, rows, cols] = (convolved * g_grouped).sum((1, 3))
        del convolved
        z = (g_grouped * a[:, None, :, None]).flatten(1, 3)  # [B,groups*N*G,h,w]
        d_around, d_stacked, d_bias = torch.ops.aten.convolution_backward(
            z, around, stacked, [z.shape[1]], [1, 1], [0, 0], [1, 1], False, [0, 0], groups, [True, True, True]
        )
        dw += d_stacked
        db += d_bias
        _add_inside(dx, d_around, i, rows, cols, weight.shape[-1] // 2)
    dweight, dbias = _unstack(dw, db, weight)
    return dx, da, dweight.to(weight.dtype), dbias.to(bias.dtype)


def pixel_kernels(coefficients: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mix the kernel and the bias of each of P pixels: coefficients [P,N] -> [P,C,G,k,k], [P,C].

    Meant for a few pixels: each takes C*G*k*k values, which is why `forward` mixes results instead of kernels.
    """
    kernels = (coefficients @ weight.flatten(1)).unflatten(1, weight.shape[1:])
    return kernels, coefficients @ bias


def forward_by_kernels(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the operator as the paper writes it (section 3.1): mix a kernel for every pixel, then apply it.

    Shapes are those of `forward`. Both steps are matrix products, so torch's FLOP counter sees every multiply-add. It
    takes C*G*k*k values of memory per pixel: use it for counting and comparison only.
    """
    batch, channels, height, width = x.shape
    group_channels, k = weight.shape[2:4]
    a = coefficients.flatten(2).transpose(1, 2).flatten(0, 1)  # [B*H*W,N]
    kernels, biases = pixel_kernels(a, weight, bias)
    groups = channels // group_channels
    around = F.unfold(x, k, padding=k // 2).unflatten(1, (groups, -1))  # [B,C/G,G*k*k,H*W]
    around = around.permute(0, 3, 1, 2).flatten(0, 2)[..., None]  # [B*H*W*C/G,G*k*k,1]
    filtered = kernels.flatten(2).unflatten(1, (groups, group_channels)).flatten(0, 1) @ around
    y = filtered.view(batch, height * width, channels) + biases.view(batch, height * width, channels)
    result: Tensor = y.transpose(1, 2).unflatten(2, (height, width))
    return result


def _compute_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32


def _blocks_of(x: Tensor, weight: Tensor) -> Iterator[Block]:
    n, c = weight.shape[:2]
    itemsize = torch.finfo(_compute_dtype(x)).bits // 8
    # Below 64 values per pixel, the result is not the largest buffer: the library pads channels to 16.
    return blocks(x.shape[0], x.shape[2], x.shape[3], max(n * c, 64) * itemsize)


def _stack(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Stack N grouped convolutions into one: [N,C,G,k,k] -> [C/G*N*G,G,k,k], outputs ordered (group, basis, out)."""
    c, g = weight.shape[1:3]
    stacked = weight.unflatten(1, (c // g, g)).transpose(0, 1).flatten(0, 2)
    return stacked.contiguous(), bias.unflatten(1, (c // g, g)).transpose(0, 1).flatten()


def _unstack(stacked: Tensor, stacked_bias: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    n, c, g = weight.shape[:3]
    back = stacked.unflatten(0, (c // g, n, g)).transpose(0, 1).flatten(1, 2)
    return back.contiguous(), stacked_bias.view(c // g, n, g).transpose(0, 1).flatten(1)


def _split(convolved: Tensor, weight: Tensor) -> Tensor:
    """Unflatten channels, [B,C/G*N*G,h,w] -> [B,C/G,N,G,h,w]."""
    n, c, g = weight.shape[:3]
    parts: Tensor = convolved.unflatten(1, (c // g, n, g))
    return parts


def _mix(convolved: Tensor, a: Tensor) -> Tensor:
    """Sum over the bases, weighted by the coefficients [B,N,h,w]: [B,C/G,N,G,h,w] -> [B,C,h,w]."""
    return (convolved * a[:, None, :, None]).sum(2).flatten(1, 2)


def _neighbourhood(x: Tensor, i: slice, rows: slice, cols: slice, pad: int) -> Tensor:
    """Return the block with `pad` more pixels on each side, and zeros outside the image."""
    height, width = x.shape[2:]
    top, bottom = max(rows.start - pad, 0), min(rows.stop + pad, height)
    left, right = max(cols.start - pad, 0), min(cols.stop + pad, width)
    outside = (left - (cols.start - pad), cols.stop + pad - right, top - (rows.start - pad), rows.stop + pad - bottom)
    return F.pad(x[i, :, top:bottom, left:right], outside)


def _add_inside(total: Tensor, part: Tensor, i: slice, rows: slice, cols: slice, pad: int) -> None:
    """Add the gradient of a neighbourhood to that of the image, without its zero padding."""
    height, width = total.shape[2:]
    top, bottom = max(rows.start - pad, 0), min(rows.stop + pad, height)
    left, right = max(cols.start - pad, 0), min(cols.stop + pad, width)
    y0, x0 = top - (rows.start - pad), left - (cols.start - pad)
    total[i, :, top:bottom, left:right] += part[:, :, y0 : y0 + bottom - top, x0 : x0 + right - left]
