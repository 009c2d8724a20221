"""Kernel basis attention on the CPU with the compiled kernels of csrc/ (the extension `kbnet.engine._native`).

Supports float32, and bfloat16 with float32 accumulation (`torch.set_float32_matmul_precision("high")` allows faster
products of float32 on a matrix unit); any memory format, including sliced and transposed tensors,
without copying the image. Uses `torch.get_num_threads()` threads. The extension loads at the first use; it is missing
if the package was installed without a C++ compiler.

`kbnet.engine.native` loads the extension and lists the environment variables that it reads.
"""

import os
from typing import Any

import torch
from torch import Tensor

from kbnet.engine.native import bfloat16_instruction_sets, describe, extension, instruction_sets, refuses_here
from kbnet.ops import forking

__all__ = [
    "backward",
    "bfloat16_instruction_sets",
    "describe",
    "extension",
    "forward",
    "instruction_sets",
    "like",
    "refuses",
    "refuses_here",
    "settings",
]

_DTYPES = (torch.float32, torch.bfloat16)


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Return why the kernels can't run on these tensors; None if they can."""
    if x.device.type != "cpu":
        return f"it runs only on the CPU, but the tensors are on {x.device}"
    if x.dtype not in _DTYPES:
        return f"it supports only float32 and bfloat16, got {x.dtype}"
    return None


def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the operator: x [B,C,H,W], coefficients [B,N,H,W], weight [N,C,G,k,k], bias [N,C] -> [B,C,H,W]."""
    y = torch.empty_like(x)
    extension().forward(x.detach(), coefficients.detach(), *_dense(weight, bias), y, split=_may_split(), **settings())
    return y


def backward(
    dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, coefficients, weight and bias, each in the shape and dtype of its tensor."""
    dx, dcoefficients = torch.empty_like(x), torch.empty_like(coefficients)
    dense_weight, dense_bias = _dense(weight, bias)
    dweight, dbias = (torch.empty_like(t, dtype=torch.float32) for t in (dense_weight, dense_bias))
    extension().backward(
        dy.detach(),
        x.detach(),
        coefficients.detach(),
        dense_weight,
        dense_bias,
        dx,
        dcoefficients,
        dweight,
        dbias,
        **settings(),
    )
    return dx, dcoefficients, like(dweight, weight), like(dbias, bias)


def settings() -> dict[str, Any]:
    """Return the arguments of every call of the extension: the number of threads and the requested instruction set."""
    forking.note_use()
    return {"threads": torch.get_num_threads(), "instruction_set": os.environ.get("KBNET_INSTRUCTION_SET", "")}


def _may_split() -> bool:
    """Whether PyTorch's settings allow products of float32 numbers that are a little less precise.

    On a matrix unit, float32 numbers are then multiplied as sums of two bfloat16 numbers, with errors of about 2^-17.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since PyTorch 2.9
    if matmul is None:
        return torch.get_float32_matmul_precision() != "highest"
    return matmul.fp32_precision in ("tf32", "bf16")


def _dense(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Make the bases and their biases contiguous, as the kernels read them; they are small enough to copy."""
    return weight.detach().contiguous(), bias.detach().contiguous()


def like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient in the dtype and memory format of its parameter."""
    if gradient.dtype == parameter.dtype and parameter.is_contiguous():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
