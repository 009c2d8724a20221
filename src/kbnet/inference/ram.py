"""Free main memory, and the refusal of images that do not fit into it. Needs no torch."""

import os
from pathlib import Path

from kbnet.errors import NotEnoughMemoryError
from kbnet.inference.cgroups import memory_left


def free_memory() -> int | None:
    """Bytes of main memory that this process can still take, within a container's limit; None where it is unknown."""
    found: list[int] = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found = [int(line.split()[1]) * 1024]
    except (OSError, ValueError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if (left := memory_left()) is not None:
        found.append(left)
    return min(found, default=None)


def check_memory(width: int, height: int, needed: int, *, option: str = "") -> None:
    """Refuse an image that needs more memory than is free.

    Args:
        width, height: of the image, pixels.
        needed: bytes.
        option: the setting to leave out, if one is to blame.

    Raises:
        NotEnoughMemoryError: it does not fit; where the free memory is unknown, every image is accepted.
    """
    free = free_memory()
    if free is None or needed <= free:
        return
    cure = f"don't use {option}, or restore" if option else "restore"
    raise NotEnoughMemoryError(
        f"{width} x {height} pixels{f' with {option}' if option else ''} need {_size(needed)} of memory, but "
        f"only {_size(free)} is free; {cure} the file with --stream (kbnet.inference.streaming in Python)"
    )


def _size(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 50_000_000 else f"{amount / 1e6:.0f} MB"
