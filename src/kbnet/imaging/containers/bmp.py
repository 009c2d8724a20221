"""Reads BMP files, header and pixels, as libvips can't. BMP is never written."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kbnet.imaging.containers.found import Found
from kbnet.imaging.photo import Resolution

_PLAIN, _FIELDS, _ALPHA_FIELDS = 0, 3, 6
_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_LONGEST_SIDE = 1 << 24


@dataclass(frozen=True)
class Header:
    """The headers of a BMP. `masks` are the bit masks of red, green, blue and alpha in 16-bit and 32-bit pixels."""

    width: int
    height: int
    from_top: bool
    bits: int
    compression: int
    pixels_at: int
    palette_at: int
    palette_entry: int
    palette_count: int
    masks: tuple[int, int, int, int]
    per_metre: tuple[int, int]
    profile: tuple[int, int]

    @property
    def has_alpha(self) -> bool:
        """Whether pixels have alpha bits."""
        return self.masks[3] != 0

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, padded to a multiple of four."""
        return (self.width * self.bits + 31) // 32 * 4


def read_header(file: BinaryIO) -> Header | None:
    """Read the header of a BMP. Returns None if it is invalid."""
    file.seek(0)
    head = file.read(14 + 124)
    if len(head) < 26 or head[:2] != b"BM":
        return None
    (pixels_at,) = struct.unpack_from("<I", head, 10)
    (size,) = struct.unpack_from("<I", head, 14)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", head, 18)
        return _checked(Header(
            width, height, False, bits, _PLAIN, pixels_at, 26, 3, 1 << bits if bits <= 8 else 0,
            _MASKS.get(bits, (0, 0, 0, 0)), (0, 0), (0, 0),
        ))  # fmt: skip
    if size < 40 or len(head) < 54:
        return None
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", head, 18)
    per_metre = struct.unpack_from("<ii", head, 38)
    (used,) = struct.unpack_from("<I", head, 46)
    masks, palette_at = _MASKS.get(bits, (0, 0, 0, 0)), 14 + size
    if compression in (_FIELDS, _ALPHA_FIELDS) and len(head) >= 70:
        with_alpha = size >= 56 or compression == _ALPHA_FIELDS
        masks = struct.unpack_from("<IIII", head, 54) if with_alpha else (*struct.unpack_from("<III", head, 54), 0)
    profile = (0, 0)
    if size >= 124 and len(head) >= 138 and head[70:74] in (b"DEBM", b"MBED"):
        at, length = struct.unpack_from("<II", head, 126)
        profile = 14 + at, length
    count = min(used or 1 << bits, 1 << bits) if bits <= 8 else 0
    return _checked(Header(
        width, abs(height), height < 0, bits, compression, pixels_at, palette_at, 4, count, masks, per_metre, profile
    ))  # fmt: skip


def _checked(header: Header) -> Header | None:
    sides = 0 < header.width < _LONGEST_SIDE and 0 < header.height < _LONGEST_SIDE
    return header if sides else None


def unsupported(header: Header) -> str | None:
    """Return why a BMP can't be decoded, or None if it can."""
    if header.compression in (1, 2):
        return "a BMP with run-length compression"
    if header.compression in (4, 5):
        return "a BMP that contains a JPEG or PNG"
    if header.bits not in (1, 4, 8, 16, 24, 32) or header.compression not in (_PLAIN, _FIELDS, _ALPHA_FIELDS):
        return f"a BMP with {header.bits} bits per pixel and compression {header.compression}"
    return None


def decode(file: BinaryIO, header: Header) -> NDArray[np.uint8] | None:
    """Decode a supported file to [H,W,3], [H,W,4] with alpha, or [H,W,1] with a gray palette; None if damaged."""
    if header.bits == 16 and max(header.masks) > 0xFFFF:
        return None
    file.seek(header.pixels_at)
    size = header.row_bytes * header.height
    data = file.read(size)
    if len(data) < size:
        return None
    rows = np.frombuffer(data, np.uint8).reshape(header.height, header.row_bytes)
    pixels = _from_palette(file, header, rows) if header.bits <= 8 else _direct(header, rows)
    if pixels is None:
        return None
    return np.ascontiguousarray(pixels if header.from_top else pixels[::-1])


def _from_palette(file: BinaryIO, header: Header, rows: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    file.seek(header.palette_at)
    wanted = header.palette_count * header.palette_entry
    palette = np.frombuffer(file.read(wanted), np.uint8)
    if palette.size < wanted:
        return None
    given = palette.reshape(-1, header.palette_entry)[:, 2::-1]
    channels = 1 if (given == given[:, :1]).all() else 3
    colours = np.zeros((256, channels), np.uint8)
    colours[: header.palette_count] = given[:, :channels]
    if header.bits == 8:
        indices = rows[:, : header.width]
    else:
        parts = 8 // header.bits
        shifts = np.arange(parts - 1, -1, -1, dtype=np.uint8) * np.uint8(header.bits)
        indices = (rows[:, :, None] >> shifts & np.uint8((1 << header.bits) - 1)).reshape(header.height, -1)
        indices = indices[:, : header.width]
    return colours[indices]


def _direct(header: Header, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if header.bits == 24:
        return rows[:, : 3 * header.width].reshape(header.height, header.width, 3)[:, :, ::-1]
    words = rows.view("<u2" if header.bits == 16 else "<u4")[:, : header.width]
    planes = []
    for mask in header.masks if header.has_alpha else header.masks[:3]:
        top = mask >> (mask & -mask).bit_length() - 1 if mask else 0
        if not top:
            planes.append(np.zeros(words.shape, np.uint8))
            continue
        values = (words & words.dtype.type(mask)) >> words.dtype.type((mask & -mask).bit_length() - 1)
        planes.append(((values.astype(np.uint64) * 255 + top // 2) // top).astype(np.uint8))
    return np.stack(planes, axis=2)


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of a BMP: only a resolution."""
    found = Found()
    header = read_header(file)
    if header is not None and header.per_metre[0] > 0 and header.per_metre[1] > 0:
        found.resolution = Resolution(Fraction(header.per_metre[0]), Fraction(header.per_metre[1]), "metre")
    return found


def profile_of(file: BinaryIO, header: Header) -> bytes | None:
    """Return the colour profile in a BMP, or None."""
    at, length = header.profile
    if not at or not length:
        return None
    file.seek(at)
    profile = file.read(min(length, 1 << 26))
    return profile if len(profile) == length else None
