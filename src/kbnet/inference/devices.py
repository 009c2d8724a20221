"""Resolving device and dtype arguments."""

import torch

from kbnet.errors import InvalidInputError


def choose_device(device: str | torch.device) -> torch.device:
    """The device for "auto" (CUDA if available) or for what torch.device accepts.

    Raises InvalidInputError if this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InvalidInputError(f"expected a device that this machine has, got {device!r}: {reason}") from error
    return found


def choose_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The type for "auto", "float32" or "bfloat16".

    Raises InvalidInputError for others.
    """
    name = str(dtype).removeprefix("torch.")
    if name == "float16":
        raise InvalidInputError(
            "float16 overflows in these networks and produces black or coloured images; use bfloat16"
        )
    if name not in ("auto", "float32", "bfloat16"):
        raise InvalidInputError(f"expected dtype 'auto', 'float32' or 'bfloat16', got {name!r}")
    return torch.bfloat16 if name == "bfloat16" else torch.float32
