"""The little that has to be known about EXIF, XMP and ICC blocks. Pure functions of bytes."""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

_ORIENTATION = 0x0112
_EXIF_PREFIX = b"Exif\0\0"
_XMP_ORIENTATION = re.compile(rb"""(tiff:Orientation(?:\s*=\s*["']|\s*>)\s*)[2-8]""")
# An IFD has at most a few hundred entries; more is damage or an attack.
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Directory:
    """A TIFF image file directory: for each tag where its value field lies and that value as a number."""

    endian: str
    positions: dict[int, int]
    values: dict[int, int]
    next_position: int


def first_directory(file: BinaryIO) -> Directory | None:
    """The first directory of a classic TIFF structure (an EXIF block is one too); None where there is none to read."""
    file.seek(0)
    head = file.read(8)
    endian = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if endian is None or len(head) < 8:
        return None
    (offset,) = struct.unpack(endian + "I", head[4:8])
    file.seek(offset)
    counted = file.read(2)
    if len(counted) < 2:
        return None
    (count,) = struct.unpack(endian + "H", counted)
    body = file.read(12 * count)
    if count > _MAX_ENTRIES or len(body) < 12 * count:
        return None
    positions, values = {}, {}
    for index in range(count):
        tag, kind = struct.unpack_from(endian + "HH", body, 12 * index)
        positions[tag] = offset + 2 + 12 * index + 8
        (values[tag],) = struct.unpack_from(endian + ("H" if kind == 3 else "I"), body, 12 * index + 8)
    return Directory(endian, positions, values, offset + 2 + 12 * count)


def upright_exif(exif: bytes) -> bytes | None:
    """The EXIF block from its TIFF header on, with orientation 1 and no thumbnail; None where it is not EXIF.

    Everything else keeps its place, so maker notes with absolute offsets stay whole.
    """
    block = bytearray(exif.removeprefix(_EXIF_PREFIX))
    directory = first_directory(io.BytesIO(bytes(block)))
    if directory is None:
        return None
    if _ORIENTATION in directory.positions:
        struct.pack_into(directory.endian + "H", block, directory.positions[_ORIENTATION], 1)
    if directory.next_position + 4 <= len(block):
        # the second directory describes the thumbnail and nothing else
        struct.pack_into("I", block, directory.next_position, 0)
    return bytes(block)


def exif_orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing or senseless."""
    directory = first_directory(io.BytesIO(exif.removeprefix(_EXIF_PREFIX)))
    value = directory.values.get(_ORIENTATION, 1) if directory is not None else 1
    return value if 1 <= value <= 8 else 1


def upright_xmp(xmp: bytes) -> bytes:
    """The XMP packet with its copy of the orientation set to 1, which some programs believe over EXIF."""
    return _XMP_ORIENTATION.sub(rb"\g<1>1", xmp)


def icc_channels(profile: bytes) -> int | None:
    """How many channels the ICC profile's data colour space has: 1 gray, 3 RGB, 4 CMYK; None for any other."""
    return {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}.get(profile[16:20])


def icc_name(profile: bytes) -> str:
    """The description in an ICC profile (version 2 or 4), such as "Display P3"; "unnamed" where there is none."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for index in range(min(count, 100)):
            signature, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
            if signature == b"desc":
                return _icc_text(profile[offset : offset + size]) or "unnamed"
    except (struct.error, UnicodeDecodeError):
        return "unnamed"
    return "unnamed"


def _icc_text(tag: bytes) -> str:
    if tag[:4] == b"desc":
        (length,) = struct.unpack_from(">I", tag, 8)
        text = tag[12 : 12 + length].decode("latin-1")
    elif tag[:4] == b"mluc":
        length, offset = struct.unpack_from(">II", tag, 20)
        text = tag[offset : offset + length].decode("utf-16-be")
    else:
        return ""
    return "".join(c for c in text.split("\0")[0] if c.isprintable()).strip()
