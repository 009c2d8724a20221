"""Metadata of GIF files: comments and XMP. GIF is never written."""

from typing import BinaryIO

from kbnet.imaging.containers.found import Found

_XMP = b"XMP DataXMP"
_LARGEST = 1 << 28


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of a GIF file."""
    file.seek(0)
    data = file.read(_LARGEST)
    found = Found.of_file(len(data))
    at = 13 + _table(data[10])
    while at + 1 < len(data):
        mark = data[at]
        if mark == 0x2C:
            at += 10
            at = _skip(data, at + _table(data[at - 1]) + 1)
        elif mark == 0x21:
            label, at = data[at + 1], at + 2
            if label == 0xFE:
                end = _skip(data, at)
                found.add("comment", _joined(data, at))
                at = end
            elif label == 0xFF and data[at + 1 : at + 1 + len(_XMP)] == _XMP:
                # XMP is stored without blocks; the decreasing bytes after it end it for readers that skip blocks
                start = at + 12
                end = data.find(b"\x01\xff\xfe", start)
                if end < 0:
                    return found
                found.add("xmp", data[start:end])
                at = end + 258
            else:
                at = _skip(data, at)
        else:
            return found
    return found


def _table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _skip(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _joined(data: bytes, at: int) -> bytes:
    pieces = []
    while at < len(data) and data[at]:
        pieces.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(pieces)
