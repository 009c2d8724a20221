"""Kernel basis attention on the CPU with the compiled kernels of csrc/ (the extension `kbnet.engine._native`).

Supports float32, and bfloat16 with float32 accumulation; any memory format, including sliced and transposed tensors,
without copying the image. Uses `torch.get_num_threads()` threads. The extension loads at the first use; it is missing
if the package was installed without a C++ compiler.

The environment variable KBNET_INSTRUCTION_SET forces one of `instruction_sets()`. KBNET_THREAD_SOURCE=own makes the
kernels start their own threads instead of using those of torch's OpenMP runtime.
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kbnet.engine.native import extension
from kbnet.ops import forking

_DTYPES = (torch.float32, torch.bfloat16)


def refuses_here() -> str | None:
    """Return why this machine can't run the kernels at all; None if it can."""
    return _refuses_here(os.environ.get("KBNET_INSTRUCTION_SET", ""))


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Return why the kernels can't run on these tensors; None if they can."""
    if x.device.type != "cpu":
        return f"it runs only on the CPU, but the tensors are on {x.device}"
    if x.dtype not in _DTYPES:
        return f"it supports only float32 and bfloat16, got {x.dtype}"
    return None


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this CPU supports, the fastest first.

    "avx512bf16" is "avx512" with bfloat16 dot products.
    """
    return tuple(extension().instruction_sets())


def describe() -> str:
    """Describe the instruction set and threads in use in one line, or say why the kernels aren't available."""
    reason = refuses_here()
    if reason is not None:
        return f"not available: {reason}"
    chosen = os.environ.get("KBNET_INSTRUCTION_SET") or instruction_sets()[0]
    owner = {"openmp": "torch's OpenMP threads", "own": "its own threads"}[extension().thread_source()]
    return f"{chosen}, {torch.get_num_threads()} of {owner}"


def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the operator: x [B,C,H,W], coefficients [B,N,H,W], weight [N,C,G,k,k], bias [N,C] -> [B,C,H,W]."""
    y = torch.empty_like(x)
    extension().forward(x.detach(), coefficients.detach(), *_dense(weight, bias), y, **settings())
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


@cache
def _refuses_here(wish: str) -> str | None:
    try:
        known = instruction_sets()
    except ImportError as error:
        return f"kbnet was installed without its compiled kernels, which need GCC or Clang at installation ({error})"
    if wish and wish not in known:
        return f"KBNET_INSTRUCTION_SET is {wish!r}, but this machine supports {', '.join(known)}"
    return None


def settings() -> dict[str, Any]:
    """Return the arguments of every call of the extension: the number of threads and the requested instruction set."""
    forking.note_use()
    return {"threads": torch.get_num_threads(), "instruction_set": os.environ.get("KBNET_INSTRUCTION_SET", "")}


def _dense(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Make the bases and their biases contiguous, as the kernels read them; they are small enough to copy."""
    return weight.detach().contiguous(), bias.detach().contiguous()


def like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return the gradient in the dtype and memory format of its parameter."""
    if gradient.dtype == parameter.dtype and parameter.is_contiguous():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
