"""Photos in memory that processes share without copies, mapped from an in-memory file."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from kbnet.data.photos import Pixels

Place = tuple[str, int, tuple[int, ...]]
"""Path, offset and shape of a mapped uint8 array."""


class SharedMemory:
    """Memory that other processes can map by file name as long as this object exists.

    Where possible (memfd), uses neither /dev/shm, which is small in containers, nor the disk.
    """

    def __init__(self, size: int) -> None:
        self._used = 0
        if hasattr(os, "memfd_create"):
            self._file: Any = os.fdopen(os.memfd_create("kbnet-photos"), "r+b")
            self._name = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        else:
            self._file = tempfile.NamedTemporaryFile(prefix="kbnet-photos-")  # noqa: SIM115  # lives as long as this
            self._name = self._file.name
        self._file.truncate(max(size, 1))
        weakref.finalize(self, self._file.close)  # what is mapped stays mapped

    def put(self, pixels: Pixels) -> Pixels:
        """Copy an array into the shared memory, and return the copy."""
        place = self._name, self._used, pixels.shape
        self._used += pixels.size
        copy: Pixels = np.memmap(self._name, np.uint8, "r+", place[1], place[2])
        copy[...] = pixels
        return copy


def share(arrays: Iterable[Pixels]) -> tuple[SharedMemory, list[Pixels]]:
    """Copy arrays into shared memory. Arrays already mapped from a file are returned unchanged.

    Returns:
        The shared memory, and the arrays in it.
    """
    given = list(arrays)
    memory = SharedMemory(sum(a.size for a in given if not isinstance(a, np.memmap)))
    for index, pixels in enumerate(given):
        if not isinstance(pixels, np.memmap):
            given[index] = memory.put(pixels)
    return memory, given


def place_of(pixels: Pixels) -> Place | Pixels:
    """Return the place of a mapped array; an array in private memory is returned unchanged."""
    return (str(pixels.filename), pixels.offset, pixels.shape) if isinstance(pixels, np.memmap) else pixels


def at(place: Place | Pixels) -> Pixels:
    """Map the array at a place, read-only; an array is returned unchanged."""
    if isinstance(place, np.ndarray):
        return place
    mapped: Pixels = np.memmap(place[0], np.uint8, "r", place[1], place[2])
    return mapped
