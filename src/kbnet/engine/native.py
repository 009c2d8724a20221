"""The extension module compiled from csrc/, shared by the engine and the operator."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def extension() -> Any:
    """Import the extension module `kbnet.engine._native`.

    Raises:
        ImportError: kbnet was installed without its compiled kernels.
    """
    return import_module("kbnet.engine._native")
