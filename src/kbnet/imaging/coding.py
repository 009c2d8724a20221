"""How a JPEG was encoded (tables, subsampling, progressive or not), and encoding pixels in the same way with Pillow.

libvips can't be given tables of quantization.
"""

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from kbnet.imaging.containers.scanning import SOS, segments
from kbnet.imaging.photo import Pixels

_TABLES, _ADOBE, _PROGRESSIVE = 0xDB, 0xEE, 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
_SAMPLINGS = {b"\x11\x11\x11": 0, b"\x21\x11\x11": 1, b"\x22\x11\x11": 2}
_SQUARE = sorted(((y, x) for y in range(8) for x in range(8)), key=lambda p: (sum(p), p[sum(p) % 2 == 0]))
_ZIGZAG = [_SQUARE.index((y, x)) for y in range(8) for x in range(8)]
"""Place in a segment of each value of a table in natural order."""


@dataclass(frozen=True)
class JpegCoding:
    """Attributes:
    tables: quantization tables in natural order, 64 values each: of the luma, and of the chroma if it has any.
    subsampling: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0.
    progressive: whether it was written in several scans.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int = 0
    progressive: bool = False


def coding_of(file: BinaryIO) -> JpegCoding | None:
    """Return how an open JPEG was encoded; None if that can't be repeated, as with unusual sampling or CMYK."""
    file.seek(0)
    data = file.read()
    tables: dict[int, tuple[int, ...]] = {}
    try:
        for marker, start, end in segments(data):
            if marker == _TABLES:
                tables |= _read_tables(data[start:end])
            elif marker == _ADOBE and data[start : start + 5] == b"Adobe" and data[start + 11] == 0:
                return None  # RGB without conversion to YCbCr
            elif marker in _FRAMES:
                return _coding(data[start:end], tables, progressive=marker == _PROGRESSIVE)
            elif marker == SOS:
                return None
    except (IndexError, KeyError):
        return None
    return None


def _read_tables(segment: bytes) -> dict[int, tuple[int, ...]]:
    """Return the 8-bit tables of a segment by number, in natural order."""
    tables, at = {}, 0
    while at < len(segment):
        wide, number = segment[at] >> 4, segment[at] & 15
        if not wide:
            tables[number] = tuple(segment[at + 1 + place] for place in _ZIGZAG)
        at += 1 + 64 * (1 + wide)
    return tables


def _coding(frame: bytes, tables: dict[int, tuple[int, ...]], *, progressive: bool) -> JpegCoding | None:
    """Return the coding of a frame header; None if it is unusual. A missing table raises KeyError."""
    count = frame[5]
    sampling = [frame[7 + 3 * component] for component in range(count)]
    used = [tables[frame[8 + 3 * component]] for component in range(count)]
    if count == 1:
        return JpegCoding((used[0],), 0, progressive)
    subsampling = _SAMPLINGS.get(bytes(sampling))
    if subsampling is None or used[1] != used[2]:
        return None
    return JpegCoding((used[0], used[1]), subsampling, progressive)


def encode(pixels: Pixels, coding: JpegCoding) -> bytes:
    """Encode 8-bit pixels [H,W] or [H,W,3] as a JPEG with these tables, without metadata.

    Raises:
        OSError, ValueError: the encoder failed.
    """
    from PIL import Image

    target = io.BytesIO()
    tables: Any = [list(table) for table in coding.tables]
    options: dict[str, Any] = {} if pixels.ndim == 2 else {"subsampling": coding.subsampling}
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(target, "JPEG", qtables=tables, optimize=True, progressive=coding.progressive, **options)
    return target.getvalue()
