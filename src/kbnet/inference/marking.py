"""The mark of results: a property in their XMP, by which later runs recognise them wherever they were moved."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from kbnet import __version__
from kbnet.imaging import Block, Metadata, xmp

MARKED_NOTE = "skipped: a result of an earlier run, by its metadata; name it by itself to restore it"
"""The note on an input that is skipped."""

_ENDS = 256 * 1024
"""Bytes at the beginning and at the end of a file that are searched; every writer here puts XMP at one of them."""


def marked(metadata: Metadata, task: str) -> Metadata:
    """Return the metadata of a result with the mark in its XMP; unchanged if the XMP is malformed.

    Args:
        metadata: of the input.
        task: what was done, such as "denoise".
    """
    blocks = list(metadata.blocks)
    for index, block in enumerate(blocks):
        if block.kind == "xmp":
            packet = xmp.marked(block.data, task, __version__)
            if packet is not None:
                blocks[index] = replace(block, data=packet)
            return replace(metadata, blocks=tuple(blocks))
    packet = xmp.marked(xmp.EMPTY, task, __version__)
    assert packet is not None  # the empty packet is well-formed
    return replace(metadata, blocks=(*blocks, Block("xmp", packet)))


def is_marked(path: Path) -> bool:
    """Return whether a file is a result, by its mark. False if it can't be read."""
    try:
        state = path.stat()
    except OSError:
        return False
    return _is_marked(os.fspath(path), state.st_size, state.st_mtime_ns)


def holds_mark(data: bytes) -> bool:
    """Return whether the bytes of a whole file are a result's, by its mark, as `is_marked` does for a path."""
    return xmp.MARK in data[:_ENDS] or xmp.MARK in data[-_ENDS:]


@lru_cache(maxsize=100_000)
def _is_marked(path: str, size: int, modified: int) -> bool:
    """Size and modification time are part of the cache key, so that a changed file is read again."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(_ENDS)
            if xmp.MARK in start:
                return True
            file.seek(max(size - _ENDS, len(start)))
            return xmp.MARK in file.read(_ENDS)
    except (OSError, ValueError):
        return False
