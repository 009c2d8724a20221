"""ISO boxes, of which AVIF and HEIF files are made, and the items that they describe."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """An item: number, type such as "av01" or "Exif", content type if the type is "mime", and where its bytes are.

    `hidden` tells whether it isn't an image to display on its own.
    """

    number: int
    kind: bytes
    content_type: bytes
    parts: tuple[tuple[int, int, int], ...] = ()  # construction method, position, length
    hidden: bool = False


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, and the start and end of the content, of each box between two positions."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            start = at + 16
        elif size == 0:
            size = end - at
        if size < start - at or at + size > end:
            return
        yield kind, start, at + size
        at += size


def items(data: bytes, start: int, stop: int) -> list[Item]:
    """Return the items that a `meta` box describes."""
    kinds: dict[int, tuple[bytes, bytes, bool]] = {}
    places: dict[int, tuple[tuple[int, int, int], ...]] = {}
    for kind, at, end in boxes(data, start + 4, stop):
        if kind == b"iinf":
            first = at + (6 if data[at] == 0 else 8)
            for inner, begin, finish in boxes(data, first, end):
                if inner == b"infe" and data[begin] in (2, 3):
                    number, rest = _item_number(data, begin)
                    strings = data[rest + 6 : finish].split(b"\0")
                    content_type = strings[1] if len(strings) > 1 else b""
                    kinds[number] = data[rest + 2 : rest + 6], content_type, bool(data[begin + 3] & 1)
        elif kind == b"iloc":
            places = _places(data, at, end)
    return [Item(number, kind, of, places.get(number, ()), hidden) for number, (kind, of, hidden) in kinds.items()]


def _item_number(data: bytes, begin: int) -> tuple[int, int]:
    if data[begin] == 2:
        return struct.unpack_from(">H", data, begin + 4)[0], begin + 6
    return struct.unpack_from(">I", data, begin + 4)[0], begin + 8


def _places(data: bytes, at: int, end: int) -> dict[int, tuple[tuple[int, int, int], ...]]:
    reader = Locations(data, at, end)
    return {number: tuple((method, base + offset, length) for offset, length in parts)
            for number, method, _, base, parts in reader.items}  # fmt: skip


class Locations:
    """The unpacked `iloc` box with the items' locations: (number, construction method, reference, base, parts)."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self._at = data, at + 4
        self.version = data[at]
        sizes = self._take(2)
        offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
        index = sizes & 15 if self.version else 0
        self.items: list[tuple[int, int, int, int, list[tuple[int, int]]]] = []
        for _ in range(self._take(2 if self.version < 2 else 4)):
            if self._at >= end:
                return
            number = self._take(2 if self.version < 2 else 4)
            method = self._take(2) & 15 if self.version else 0
            reference, start = self._take(2), self._take(base)
            parts = []
            for _ in range(self._take(2)):
                if self._at > end or not (offset or length or index):
                    break
                self._take(index)
                parts.append((self._take(offset), self._take(length)))
            self.items.append((number, method, reference, start, parts))

    def _take(self, size: int) -> int:
        value = int.from_bytes(self._data[self._at : self._at + size])
        self._at += size
        return value
