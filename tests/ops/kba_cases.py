"""Inputs of kernel basis attention, and its definition written out, for the tests of this folder."""

import torch
from torch.nn import functional as F

from kbnet.ops.backends import BACKENDS

NAMES = ("x", "coefficients", "weight", "bias")

# Usable on this machine, and with tensors on the CPU.
CPU_BACKENDS = tuple(
    backend.name
    for backend in BACKENDS
    if backend.refuses_here() is None and backend.refuses(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)) is None
)

# (B, C, N, G, k, H, W): odd and degenerate sizes rather than round ones.
SHAPES = {
    "plain": (1, 8, 5, 4, 3, 9, 13),
    "one pixel": (1, 4, 3, 2, 3, 1, 1),
    "one row": (2, 6, 3, 3, 3, 1, 17),
    "one column": (1, 4, 2, 1, 3, 7, 1),
    "one basis": (2, 6, 1, 2, 3, 3, 5),
    "one channel a group": (1, 5, 4, 1, 3, 3, 5),
    "one group": (1, 3, 4, 3, 3, 5, 4),
    "one channel": (1, 1, 2, 1, 3, 4, 5),
    "1x1 kernel": (2, 4, 3, 2, 1, 3, 5),
    "5x5 kernel": (2, 4, 3, 2, 5, 3, 7),
    "7x7 kernel on a smaller image": (1, 2, 2, 2, 7, 3, 2),
    "32 bases": (1, 12, 32, 2, 3, 7, 16),
}


def make(shape, dtype=torch.float64, seed=0):
    """x, coefficients, weight and bias of a case, each wanting a gradient."""
    b, c, n, g, k, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = ((b, c, h, w), (b, n, h, w), (n, c, g, k, k), (n, c))
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


def naive(x, coefficients, weight, bias):
    """The definition itself: a kernel for every pixel, applied to that pixel's neighbourhood."""
    b, c, h, w = x.shape
    g, k = weight.shape[2], weight.shape[-1]
    kernels = torch.einsum("bnhw,ncjuv->bcjuvhw", coefficients, weight)
    patches = F.unfold(x, k, padding=k // 2).view(b, c, k, k, h, w)
    # Output channel c reads the channels of its own group, [(c // G) * G, (c // G + 1) * G).
    reads = torch.tensor([[out // g * g + j for j in range(g)] for out in range(c)])
    return (kernels * patches[:, reads]).sum((2, 3, 4)) + torch.einsum("bnhw,nc->bchw", coefficients, bias)


def with_gradients(operator, tensors, dy):
    """Output and the four gradients of `operator`, by name."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = operator(*leaves)
    gradients = torch.autograd.grad(y, leaves, dy)
    return {"y": y.detach(), **dict(zip(NAMES, gradients, strict=True))}


def relative_error(result, exact):
    """Largest difference over the largest value."""
    return float((result.double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300))
