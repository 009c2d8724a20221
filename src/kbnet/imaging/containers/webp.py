"""Metadata of WebP files: the chunks of their RIFF container."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from kbnet.imaging import exif
from kbnet.imaging.containers.found import Found
from kbnet.imaging.containers.trailing import extras_behind
from kbnet.imaging.photo import Metadata

_PIXELS = (b"VP8 ", b"VP8L", b"ALPH")
_CODING = (*_PIXELS, b"VP8X", b"ICCP", b"ANIM", b"ANMF")
_ICC, _ALPHA, _EXIF, _XMP = 0x20, 0x10, 0x08, 0x04
_LARGEST = 1 << 28


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, content position and content length of each chunk, up to the first incomplete one."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if len(head) < 12:
        return
    end, at = min(size, 8 + struct.unpack_from("<I", head, 4)[0]), 12
    while at + 8 <= end:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        if at + 8 + length > size:
            return
        yield kind, at + 8, length
        at += 8 + length + length % 2


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of a WebP file."""
    found = Found.of_file(file.seek(0, 2))
    for kind, at, length in chunks(file):
        if kind in _CODING or length > _LARGEST:
            continue
        file.seek(at)
        content = file.read(length)
        if kind == b"EXIF":
            found.add("exif", content.removeprefix(exif.PREFIX))
        elif kind == b"XMP ":
            found.add("xmp", content)
        elif kind == b"C2PA":
            found.add("content-credentials", content, "C2PA")
        else:
            found.add("riff-chunk", content, kind.decode("latin-1"))
    file.seek(4)
    end = 8 + struct.unpack("<I", file.read(4).ljust(4, b"\0"))[0]
    file.seek(end)
    rest = file.read(_LARGEST)
    found.extras += extras_behind(rest, 0) if rest else []
    return found


def dressed(
    encoded: bytes, metadata: Metadata, profile: bytes | None, size: tuple[int, int], *, has_alpha: bool
) -> bytes:
    """Return an encoded WebP with these blocks instead of those that the encoder wrote. `size` is (width, height)."""
    head: list[tuple[bytes, bytes]] = [] if profile is None else [(b"ICCP", profile)]
    tail = [(b"EXIF", block.data) for block in metadata.all("exif")][:1]
    tail += [(b"XMP ", block.data) for block in metadata.all("xmp")][:1]
    tail += [(block.name.encode("latin-1"), block.data) for block in metadata.all("riff-chunk")]
    if not head and not tail:
        return encoded
    pixels, at = [], 12
    while at + 8 <= len(encoded):
        kind, length = struct.unpack_from("<4sI", encoded, at)
        if kind in _PIXELS:
            pixels.append((kind, encoded[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    kinds = {kind for kind, _ in tail}
    flags = (_ICC if head else 0) | (_ALPHA if has_alpha else 0)
    flags |= (_EXIF if b"EXIF" in kinds else 0) | (_XMP if b"XMP " in kinds else 0)
    canvas = b"".join(struct.pack("<I", side - 1)[:3] for side in size)
    body = b"".join(_chunk(*one) for one in [(b"VP8X", bytes([flags, 0, 0, 0]) + canvas), *head, *pixels, *tail])
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
