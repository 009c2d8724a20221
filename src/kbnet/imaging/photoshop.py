"""Photoshop image resources: the blocks in which JPEG and TIFF store IPTC captions. Pure functions of bytes."""

import struct
from collections.abc import Iterator

PREFIX = b"Photoshop 3.0\0"
_SIGNATURES = (b"8BIM", b"MeSa", b"PHUT", b"AgHg", b"DCSR")
_IPTC = 0x0404
_IPTC_DIGEST = 0x0425
_THUMBNAILS = (0x0409, 0x040C)


def resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the number, content, and all bytes of each resource, up to the first incomplete one."""
    at = 0
    while at + 12 <= len(data) and data[at : at + 4] in _SIGNATURES:
        (number,) = struct.unpack_from(">H", data, at + 4)
        name = 1 + data[at + 6]
        body = at + 6 + name + name % 2 + 4
        if body > len(data):
            return
        (size,) = struct.unpack_from(">I", data, body - 4)
        if body + size > len(data):
            return
        end = body + size + size % 2
        yield number, data[body : body + size], data[at : body + size] + bytes(size % 2)
        at = end


def without_thumbnails(data: bytes) -> bytes:
    """Return the resources without thumbnails, which show the unrestored image."""
    return b"".join(whole for number, _, whole in resources(data) if number not in _THUMBNAILS)


def iptc_of(data: bytes) -> bytes | None:
    """Return the IPTC records in the resources, or None."""
    return next((content for number, content, _ in resources(data) if number == _IPTC), None)


def of_iptc(records: bytes) -> bytes:
    """Wrap IPTC records in a resource."""
    return b"8BIM" + struct.pack(">HHI", _IPTC, 0, len(records)) + records + bytes(len(records) % 2)
