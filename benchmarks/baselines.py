"""The baseline for the operator: the formula of the authors' published code, in plain PyTorch.

It first mixes and stores the kernel of every pixel, C*G*k*k numbers per pixel, and then multiplies it with an unfolded
copy of the input. Only the formula comes from the authors' code; autograd differentiates it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from kbnet.nn import LayerNorm2d
from kbnet.ops import kernel_basis_attention


def per_pixel_kernels(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Kernel basis attention as published: shapes as in `kbnet.ops.kernel_basis_attention`."""
    b, c, h, w = x.shape
    n, _, g, k, _ = weight.shape
    a = coefficients.flatten(2).transpose(1, 2)  # [B,HW,N]
    kernels = (a @ weight.reshape(n, -1)).view(b, h * w, c // g, g, g * k * k)
    taps = F.unfold(x, k, padding=k // 2).view(b, c // g, g * k * k, h * w).permute(0, 3, 1, 2)  # [B,HW,C/G,G*k*k]
    y = (kernels @ taps[..., None]).view(b, h * w, c) + a @ bias
    return y.transpose(1, 2).reshape(b, c, h, w)


def plain_layer_norm(norm: LayerNorm2d, x: Tensor) -> Tensor:
    """The norm over channels as published, as separate operations."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    y = (x - mean) / (variance + norm.eps).sqrt()
    return norm.weight.view(1, -1, 1, 1) * y + norm.bias.view(1, -1, 1, 1)


@contextmanager
def operator(name: str, *, fused: bool = False) -> Iterator[None]:
    """Make layers use this implementation of the operator: "published" (with its norm) or a backend's name.

    Blocks run layer by layer, unless `fused` is set; then they run as the native backend chooses.
    """

    def backend(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return kernel_basis_attention(x, coefficients, weight, bias, backend=name)

    published = name == "published"
    with ExitStack() as stack:
        if not fused:
            stack.enter_context(patch.dict("os.environ", {"KBNET_FUSED": "off"}))
        chosen = per_pixel_kernels if published else backend
        stack.enter_context(patch("kbnet.nn.layers.kernel_basis_attention", chosen))
        if published:
            stack.enter_context(patch.object(LayerNorm2d, "forward", plain_layer_norm))
        yield


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations per second of torch's 2048 x 2048 matrix product, the best of several runs."""
    from timing import best

    a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    return float(2 * 2048**3 / best({"matmul": lambda: a @ b}, repeats=5)["matmul"])
