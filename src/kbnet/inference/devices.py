"""Resolving device and dtype arguments. PyTorch is imported only where a GPU could matter."""

import sys
from pathlib import Path
from typing import Any

from kbnet.errors import InvalidInputError
from kbnet.inference.runners import has_torch

# Files of the drivers of NVIDIA's and AMD's GPUs on Linux, and of both under WSL.
_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def choose_device(device: Any) -> str:
    """The device for "auto" (CUDA if available) or for what torch.device accepts.

    Raises:
        InvalidInputError: this machine has no such device.
        MissingExtraError: it isn't the CPU, and PyTorch isn't installed.
    """
    if str(device) == "auto":
        return "cuda" if _has_cuda() else "cpu"
    if str(device) == "cpu":
        return "cpu"
    from kbnet.needs_torch import torch

    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidInputError(f"expected a device that this machine has, got {device!r}: {reason}") from error
    return str(found)


def _has_cuda() -> bool:
    """Whether PyTorch is installed and finds a GPU. Importing it takes seconds, so drivers are looked for first."""
    if "torch" not in sys.modules:
        nowhere = sys.platform == "darwin" or (
            sys.platform == "linux" and not any(Path(path).exists() for path in _DRIVERS)
        )
        if nowhere or not has_torch():
            return False
    import torch

    return torch.cuda.is_available()


def choose_dtype(dtype: Any) -> str:
    """The type for "auto", "float32" or "bfloat16", or a torch.dtype of that name.

    Raises InvalidInputError for others.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "float16":
        raise InvalidInputError(
            "float16 overflows in these networks and produces black or coloured images; use bfloat16"
        )
    if name not in ("auto", "float32", "bfloat16"):
        raise InvalidInputError(f"expected dtype 'auto', 'float32' or 'bfloat16', got {name!r}")
    return "bfloat16" if name == "bfloat16" else "float32"
