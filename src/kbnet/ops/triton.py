"""Kernel basis attention on NVIDIA GPUs by Triton kernels (triton_kernels.py, which is imported at the first use).

Float32, bfloat16 and float16, summed in float32; any memory format, sliced and transposed tensors included, without a
copy of the image. The kernels never hold more than one block of pixels; beyond inputs and outputs a call takes, for
large images, a packed copy of the bases and, in the backward pass, at most `SCRATCH_BYTES` of partial sums. No atomics:
results do not depend on timing. A call forward is one launch, a call backward three or four; for large images one more
each. torch.compile sees the launches, not a call that it can't look into (`tracing`).

Products of float32 are exact unless PyTorch was told that matrix products may use TF32
(`torch.backends.cuda.matmul.allow_tf32`). Half precisions multiply as they are stored; the gradients of coefficients
and bases, where one factor is itself a product, multiply in TF32, which has the range of float32.

With the environment variable TRITON_INTERPRET=1, set before anything imports triton, the kernels run on CPU tensors in
Triton's interpreter: slow, for tests.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

SCRATCH_BYTES = 64 * 2**20
"""Limit of the partial sums of one backward pass, as long as the bases themselves are smaller."""

PROGRAMS = 1024
"""A sum is cut into parts until there is this much independent work: several times the multiprocessors of a GPU. The
same on every GPU, so that the order of the additions is too."""

PACKED_FROM = 2**21
"""Values of x from which the bases are packed first. Below, a call takes no longer than launches, and a copy is one."""

OLDEST_CAPABILITY = (8, 0)
"""Tensor cores for bfloat16 and TF32 begin here."""

# Pixels P, input channels IG and warps, by kernel and by what is multiplied: float32 exactly or as TF32, or half
# precisions. Chosen without a GPU, from what the compiler reports for sm_80 and sm_90 at N, G and k of the published
# networks: about the fewest instructions a multiply-add in the innermost loop, among the tiles that spill no register.
_TILES = {
    ("apply_kernel", "ieee"): (128, 4, 8),
    ("apply_kernel", "tf32"): (128, 4, 8),
    ("apply_kernel", "half"): (128, 4, 8),
    ("coefficients_gradient_kernel", "ieee"): (128, 1, 8),
    ("coefficients_gradient_kernel", "tf32"): (128, 4, 8),
    ("coefficients_gradient_kernel", "half"): (128, 4, 8),
    ("bases_gradient_kernel", "ieee"): (64, 2, 4),
    ("bases_gradient_kernel", "tf32"): (64, 4, 4),
    ("bases_gradient_kernel", "half"): (64, 4, 4),
}

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Settings:
    """One compiled kernel: which, its compile-time constants (see triton_kernels.py), warps, pipeline stages."""

    kernel: str
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


FOLD = Settings("fold_kernel", {"P": 128, "PARTS": 16}, num_warps=4, num_stages=2)
"""How partial sums are added up."""


def refuses_here() -> str | None:
    """Why this machine can't run the kernels at all; None if it can."""
    return _refuses_here(_interpreted())


def refuses(x: Tensor, weight: Tensor) -> str | None:
    """Why the kernels can't run on these tensors; None if they can."""
    if x.device.type != "cuda" and not (x.device.type == "cpu" and _interpreted()):
        return f"it runs only on CUDA GPUs, but the tensors are on {x.device}"
    if x.dtype not in _DTYPES:
        return f"it supports only float32, bfloat16 and float16, got {x.dtype}"
    if x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < OLDEST_CAPABILITY:
        found, oldest = torch.cuda.get_device_capability(x.device), OLDEST_CAPABILITY
        return f"it needs compute capability {oldest[0]}.{oldest[1]}, and {x.device} has {found[0]}.{found[1]}"
    return None


def describe() -> str:
    """Version of Triton and the GPU, in a line for people; or why there is no Triton kernel."""
    reason = refuses_here()
    if reason is not None:
        return f"not available: {reason}"
    where = "its interpreter on the CPU" if _interpreted() else torch.cuda.get_device_name()
    return f"Triton {import_module('triton').__version__}, {where}"


def forward(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the operator: x [B,C,H,W], coefficients [B,N,H,W], weight [N,C,G,k,k], bias [N,C] -> [B,C,H,W]."""
    y = torch.empty_like(x)
    if y.numel():
        with _on(x):
            _apply(x, coefficients, _readable(weight, x), bias, y, backward=False)
    return y


def backward(
    dy: Tensor, x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, coefficients, weight and bias, each in the shape and dtype of what it belongs to."""
    dx, da, dw, db = (torch.empty_like(t) for t in (x, coefficients, weight, bias))
    if x.numel() == 0:
        return dx, da, dw.zero_(), db.zero_()
    with _on(x):
        readable = _readable(weight, x)
        _apply(dy, coefficients, readable, bias, dx, backward=True)
        _fold(_coefficients_gradient(dy, x, readable, bias, da), _bases_gradient(dy, x, coefficients, dw, db))
    return dx, da, dw, db


def settings(kernel: str, weight: Tensor, dtype: torch.dtype, *, backward: bool = False) -> Settings:
    """How `kernel` is compiled for bases of this shape [N,C,G,k,k] and this dtype; does not depend on the device.

    Neither the size of the image nor C is compiled in.
    """
    n, g, k = (int(weight.shape[axis]) for axis in (0, 2, 3))  # a number also where a compiler keeps sizes open
    precision = "ieee" if dtype == torch.float32 and not _tf32_allowed() else "tf32"
    pixels, inputs, num_warps = _TILES[kernel, precision if dtype == torch.float32 else "half"]
    outputs = min(_power_of_two(g), 16)
    constants: dict[str, Any] = {
        "N": n,
        "G": g,
        "K": k,
        "P": pixels,
        "BN": max(16, min(_power_of_two(n), 32)),
        "IG": min(_power_of_two(g), inputs),
        "GB": 16 // outputs,
        "OG": outputs,
        "PRECISION": precision,
    }
    if kernel == "apply_kernel":
        # The interpreter multiplies bfloat16 as if it were integers.
        constants |= {"BACKWARD": backward, "WIDEN": _interpreted()}
    return Settings(kernel, constants, num_warps, num_stages=2)


def _apply(x: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, y: Tensor, *, backward: bool) -> None:
    chosen = settings("apply_kernel", weight, x.dtype, backward=backward)
    blocks, sizes = _channel_blocks(x, chosen), _sizes(x)
    programs = blocks * _cdiv(sizes[0], chosen.constants["P"])
    strides = (*x.stride(), *coefficients.stride(), *y.stride(), *weight.stride(), *bias.stride())
    _launch(chosen, programs, x, coefficients, weight, bias, y, blocks, *sizes, *strides)


@dataclass(frozen=True)
class _Partial:
    """Where a kernel writes gradients: these themselves, or float32 sums of several parts, each laid out as they are.

    Gradients are dense (`empty_like`), so what lies at a place in one lies there in all.
    """

    parts: int
    written: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    @classmethod
    def of(cls, parts: int, *gradients: Tensor) -> "_Partial":
        if parts == 1:
            return cls(parts, gradients, gradients)
        # A tensor each: a compiler must not see two views of one being written.
        written = tuple(t.new_empty(parts * t.numel(), dtype=torch.float32) for t in gradients)
        return cls(parts, written, gradients)

    def size(self, index: int) -> int:
        """Values of a gradient that are to be added up."""
        return self.gradients[index].numel() if self.parts > 1 else 0


def _coefficients_gradient(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, da: Tensor) -> _Partial:
    chosen = settings("coefficients_gradient_kernel", weight, x.dtype)
    blocks, sizes = _channel_blocks(x, chosen), _sizes(x)
    programs = _cdiv(sizes[0], chosen.constants["P"]) * _cdiv(weight.shape[0], chosen.constants["BN"])
    # A small image has many channels: its few blocks of pixels alone would not fill the GPU.
    parts = max(1, min(blocks, PROGRAMS // programs, SCRATCH_BYTES // (4 * da.numel())))
    partial = _Partial.of(parts, da)
    strides = (*dy.stride(), *x.stride(), da.numel(), *da.stride(), *weight.stride(), *bias.stride())
    _launch(chosen, programs * parts, dy, x, weight, bias, *partial.written, blocks, parts, *sizes, *strides)
    return partial


def _bases_gradient(dy: Tensor, x: Tensor, coefficients: Tensor, dw: Tensor, db: Tensor) -> _Partial:
    n, _, g, k, _ = dw.shape
    chosen = settings("bases_gradient_kernel", dw, x.dtype)
    blocks, sizes = _channel_blocks(x, chosen), _sizes(x)
    programs = blocks * _cdiv(n, chosen.constants["BN"]) * (k * k * _cdiv(g, chosen.constants["IG"]) + 1)
    parts = min(_cdiv(PROGRAMS, programs), _cdiv(sizes[0], chosen.constants["P"]))
    parts = max(1, min(parts, SCRATCH_BYTES // (4 * (dw.numel() + db.numel()))))
    partial = _Partial.of(parts, dw, db)
    strides = (*dy.stride(), *x.stride(), *coefficients.stride(), dw.numel(), db.numel(), *dw.stride(), *db.stride())
    _launch(chosen, programs * parts, dy, x, coefficients, *partial.written, blocks, parts, *sizes, *strides)
    return partial


def _fold(coefficients: _Partial, bases: _Partial) -> None:
    """Add up all parts in one launch, or in none if nothing was cut."""
    sizes = (coefficients.size(0), bases.size(0), bases.size(1))
    programs = sum(_cdiv(size, FOLD.constants["P"]) for size in sizes)
    if programs:
        both = (coefficients, bases)
        scratch = [t for one in both if one.parts > 1 for t in one.written]
        # What was not cut is not read: something else stands there, so that nothing is both read and written.
        read = [t for one in both for t in (one.written if one.parts > 1 else scratch[:1] * len(one.gradients))]
        gradients = (*coefficients.gradients, *bases.gradients)
        _launch(FOLD, programs, *read, *gradients, coefficients.parts, sizes[0], bases.parts, *sizes[1:])


def _launch(chosen: Settings, programs: int, *arguments: Any) -> None:
    kernel = getattr(_kernels(), chosen.kernel)
    if traced():
        kernel = torch.library.wrap_triton(kernel)
    else:
        arguments = tuple(t.detach() if isinstance(t, Tensor) else t for t in arguments)
    kernel[(programs,)](*arguments, **chosen.constants, num_warps=chosen.num_warps, num_stages=chosen.num_stages)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Within it, launches of this thread become nodes of the graph that torch.compile is making."""
    _tracing.on = True
    try:
        yield
    finally:
        _tracing.on = False


def traced() -> bool:
    """Whether this thread is `tracing`."""
    return getattr(_tracing, "on", False)


def traceable() -> bool:
    """Whether launches can become nodes of a graph; in Triton's interpreter they can't."""
    return not _interpreted()


def kernels() -> list[Any]:
    """The kernels that a call may launch; imports triton."""
    return [getattr(_kernels(), name) for name in (*dict.fromkeys(kernel for kernel, _ in _TILES), FOLD.kernel)]


_tracing = threading.local()


def _on(x: Tensor) -> AbstractContextManager[Any]:
    """Launches go to the GPU that holds x; in a graph the compiler sees to that."""
    return contextlib.nullcontext() if traced() else torch.cuda.device_of(x)


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """Pixels of the batch, height, width, channels."""
    batch, channels, height, width = x.shape
    return batch * height * width, height, width, channels


def _channel_blocks(x: Tensor, chosen: Settings) -> int:
    """How many blocks of GB groups and OG output channels in each cover the channels."""
    group_channels = chosen.constants["G"]
    groups = x.shape[1] // group_channels
    return _cdiv(groups, chosen.constants["GB"]) * _cdiv(group_channels, chosen.constants["OG"])


def _readable(weight: Tensor, x: Tensor) -> Tensor:
    """The bases [N,C,G,k,k]; for large calls, a copy in which the values of a step are contiguous."""
    weight = weight.detach()
    if x.numel() < PACKED_FROM:
        return weight
    return weight.permute(3, 4, 2, 1, 0).contiguous().permute(4, 3, 2, 0, 1)


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _tf32_allowed() -> bool:
    # Newer releases have a second switch, and refuse to read the first one once the second was used.
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return precision == "tf32" if precision is not None else bool(torch.backends.cuda.matmul.allow_tf32)


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


@cache
def _refuses_here(interpreted: bool) -> str | None:
    if find_spec("triton") is None:
        return "the package triton is not installed (pip install 'kbnet[triton]')"
    if interpreted:
        return None
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "it needs an NVIDIA GPU, but PyTorch found none"
    return None


@cache
def _kernels() -> ModuleType:
    return import_module("kbnet.ops.triton_kernels")
