"""The extension module compiled from csrc/, shared by the engine and the operator.

The environment variable KBNET_INSTRUCTION_SET forces one of `instruction_sets()`. KBNET_THREAD_SOURCE=own makes the
kernels start their own threads instead of using those of PyTorch's OpenMP runtime, if that is loaded.
"""

import os
from functools import cache
from importlib import import_module
from typing import Any

from kbnet.engine.threads import default_threads


@cache
def extension() -> Any:
    """Import the extension module `kbnet.engine._native`.

    Raises:
        ImportError: kbnet was installed without its compiled kernels.
    """
    return import_module("kbnet.engine._native")


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this CPU supports, the fastest first.

    "amx" and "avx512bf16" are "avx512" with products of bfloat16: on the matrix unit of Intel's Xeons, or in vectors.
    They come first only if they measured faster than products of float32. Those in vectors are faster on AMD's
    processors, but take twice as long on Intel's. "amx_emulated" is a slow imitation of "amx", in builds for tests.
    """
    return tuple(name for name, _ in extension().instruction_sets())


def bfloat16_instruction_sets() -> tuple[str, ...]:
    """Return those of `instruction_sets()` that have products of bfloat16."""
    return tuple(name for name, in_bfloat16 in extension().instruction_sets() if in_bfloat16)


def unusable_instruction_sets() -> dict[str, str]:
    """Return the instruction sets of kbnet that this process can't use, with the reason."""
    return dict(extension().unusable_instruction_sets())


def chosen_instruction_set() -> str:
    """Return the instruction set that the kernels use."""
    return os.environ.get("KBNET_INSTRUCTION_SET") or instruction_sets()[0]


def multiplies_in_bfloat16() -> bool:
    """Whether the instruction set in use has products of bfloat16."""
    return chosen_instruction_set() in bfloat16_instruction_sets()


def describe() -> str:
    """Describe the instruction set and threads in use in one line, or say why the kernels aren't available."""
    reason = refuses_here()
    if reason is not None:
        return f"not available: {reason}"
    owner = {"openmp": "torch's OpenMP threads", "own": "its own threads"}[extension().thread_source()]
    usable = instruction_sets()
    slow = chosen_instruction_set() == usable[0] == "avx512" and {"amx", "avx512bf16"}.intersection(usable)
    note = "; bfloat16 is computed in float32, which is faster here" if slow else ""
    return f"{chosen_instruction_set()}, {default_threads()} of {owner}{note}"


def refuses_here() -> str | None:
    """Return why this machine can't run the kernels at all; None if it can."""
    return _refuses_here(os.environ.get("KBNET_INSTRUCTION_SET", ""))


@cache
def _refuses_here(wish: str) -> str | None:
    try:
        known = instruction_sets()
    except ImportError as error:
        return f"kbnet was installed without its compiled kernels ({error})"
    if wish and wish not in known:
        return f"KBNET_INSTRUCTION_SET is {wish!r}, but this machine supports {', '.join(known)}"
    return None
