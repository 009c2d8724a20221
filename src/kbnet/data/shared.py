"""Photos in memory that processes share without a copy: mapped from a file that exists in memory only."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

from kbnet.data.photos import Pixels

Place = tuple[str, int, tuple[int, ...]]
"""File, offset in it and shape of an array of bytes."""


class SharedMemory:
    """Bytes that other processes may map by the name of their file, as long as this object lives.

    Neither /dev/shm, which containers keep small, nor the disk is used where the system can do without.
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
        """A copy of an array in the shared memory."""
        place = self._name, self._used, pixels.shape
        self._used += pixels.size
        copy: Pixels = np.memmap(self._name, np.uint8, "r+", place[1], place[2])
        copy[...] = pixels
        return copy


def share(arrays: Iterable[Pixels]) -> tuple[SharedMemory, list[Pixels]]:
    """Copies of arrays in shared memory, and the memory; those mapped from a file already are left as they are."""
    given = list(arrays)
    memory = SharedMemory(sum(a.size for a in given if not isinstance(a, np.memmap)))
    for index, pixels in enumerate(given):
        if not isinstance(pixels, np.memmap):
            given[index] = memory.put(pixels)
    return memory, given


def place_of(pixels: Pixels) -> Place | Pixels:
    """Where a mapped array lies; an array in private memory as it is."""
    return (str(pixels.filename), pixels.offset, pixels.shape) if isinstance(pixels, np.memmap) else pixels


def at(place: Place | Pixels) -> Pixels:
    """The array of a place, mapped, for reading."""
    if isinstance(place, np.ndarray):
        return place
    mapped: Pixels = np.memmap(place[0], np.uint8, "r", place[1], place[2])
    return mapped
