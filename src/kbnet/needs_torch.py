"""Imported by every package that computes with PyTorch: without it, one line says what to install."""

from kbnet.errors import MissingExtraError

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise MissingExtraError("torch", "torch") from None

__all__ = ["torch"]
