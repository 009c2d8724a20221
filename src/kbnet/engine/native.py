"""The compiled module of csrc/, shared by the engine and the operator."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def extension() -> Any:
    """The compiled module `kbnet.engine._native`; ImportError where there is none."""
    return import_module("kbnet.engine._native")
