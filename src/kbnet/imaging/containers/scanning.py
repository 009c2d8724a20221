"""Locates the segments of JPEG files, and the end of an image."""

import mmap
import re
import struct
from collections.abc import Iterator

Bytes = bytes | mmap.mmap

SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length field
# A marker within coded data that isn't a stuffed byte, a restart marker or a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def segments(data: Bytes, at: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, and the start and end of the content, of each segment up to an image's end marker.

    Stops early if the file is truncated or invalid.
    """
    if data[at : at + 2] != b"\xff\xd8":
        return
    at += 2
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            return
        at, marker = found.end(), data[found.end() - 1]
        if marker in _ALONE:
            return
        if marker == EOI:
            yield marker, at, at
            return
        if at + 2 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):
            return
        yield marker, at + 2, at + length
        at += length


def picture_end(data: Bytes, at: int = 0) -> int | None:
    """Return the position after the end marker of the image that begins at `at`; None if there is no end marker."""
    return next((end for marker, _, end in segments(data, at) if marker == EOI), None)
