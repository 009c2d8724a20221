"""Metadata of files made of ISO boxes (AVIF; HEIF has the same structure): reads and adds items.

An item's description is a box inside `meta`; its bytes can be anywhere. Adding one moves everything after `meta`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from kbnet.imaging import icc
from kbnet.imaging.containers.found import Found
from kbnet.imaging.containers.trailing import extras_behind
from kbnet.imaging.photo import Metadata

_XMP_TYPE = b"application/rdf+xml"
_DEPTH = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", b"urn:mpeg:hevc:2015:auxid:2")
_GAIN_MAPS = (b"urn:com:apple:photo:2020:aux:hdrgainmap",)
_KNOWN_BOXES = (b"ftyp", b"meta", b"mdat", b"free", b"skip", b"moov", b"pdin", b"mpvd", b"uuid")
_CONTENT_CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


@dataclass(frozen=True)
class Item:
    """An item: number, type such as "av01" or "Exif", content type if the type is "mime", and where its bytes are."""

    number: int
    kind: bytes
    content_type: bytes
    parts: tuple[tuple[int, int, int], ...] = ()  # construction method, position, length


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


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of an AVIF file."""
    found = Found()
    file.seek(0)
    data = file.read()
    end = 0
    for kind, start, stop in boxes(data, 0, len(data)):
        if kind not in _KNOWN_BOXES:
            break
        end = stop
        if kind == b"meta":
            _collect_items(found, data, start, stop)
        elif kind == b"mpvd":
            found.extras.append("the video of a motion photo")
        elif kind == b"uuid" and data[start : start + 16] == _CONTENT_CREDENTIALS:
            found.add("content-credentials", data[start:stop], "uuid")
    found.extras += extras_behind(data, end) if end else []
    return found


def _collect_items(found: Found, data: bytes, start: int, stop: int) -> None:
    for item in items(data, start, stop):
        if item.kind == b"Exif":
            content = _content(data, item, start, stop)
            if len(content) > 4:
                found.add("exif", content[4 + struct.unpack_from(">I", content)[0] :])
        elif item.kind == b"mime" and item.content_type == _XMP_TYPE:
            found.add("xmp", _content(data, item, start, stop))
        elif item.kind == b"tmap":
            found.extras.append("the HDR gain map")
        elif item.kind == b"jumb":
            found.add("content-credentials", b"", "jumb")
        elif item.kind in (b"mime", b"uri "):
            found.notes.append(f"an item of type {item.content_type.decode('latin-1')!r} is not kept")
    codes = colour_codes(data[start:stop])
    if codes is not None and not icc.means_srgb(*struct.unpack(">HH", codes)):
        found.add("colour", codes, "nclx")
    # only these names distinguish auxiliary images from transparency
    properties = data[start:stop]
    if any(name in properties for name in _DEPTH):
        found.extras.append("a depth map")
    if any(name in properties for name in _GAIN_MAPS) and "the HDR gain map" not in found.extras:
        found.extras.append("the HDR gain map")


def colour_codes(data: bytes) -> bytes | None:
    """Return primaries and transfer, two bytes each, from the first nclx colour box; None if there is none."""
    at = data.find(b"colrnclx")
    return data[at + 8 : at + 12] if 0 <= at <= len(data) - 12 else None


def items(data: bytes, start: int, stop: int) -> list[Item]:
    """Return the items that a `meta` box describes."""
    kinds: dict[int, tuple[bytes, bytes]] = {}
    places: dict[int, tuple[tuple[int, int, int], ...]] = {}
    for kind, at, end in boxes(data, start + 4, stop):
        if kind == b"iinf":
            first = at + (6 if data[at] == 0 else 8)
            for inner, begin, finish in boxes(data, first, end):
                if inner == b"infe" and data[begin] in (2, 3):
                    number, rest = _item_number(data, begin)
                    strings = data[rest + 6 : finish].split(b"\0")
                    kinds[number] = data[rest + 2 : rest + 6], strings[1] if len(strings) > 1 else b""
        elif kind == b"iloc":
            places = _places(data, at, end)
    return [Item(number, *named, places.get(number, ())) for number, named in kinds.items()]


def _item_number(data: bytes, begin: int) -> tuple[int, int]:
    if data[begin] == 2:
        return struct.unpack_from(">H", data, begin + 4)[0], begin + 6
    return struct.unpack_from(">I", data, begin + 4)[0], begin + 8


def _content(data: bytes, item: Item, start: int, stop: int) -> bytes:
    content = b""
    idat = next((begin for kind, begin, _ in boxes(data, start + 4, stop) if kind == b"idat"), 0)
    for method, place, length in item.parts:
        if method == 1:
            place += idat
        elif method != 0:
            return b""
        content += data[place : place + (length or len(data))]
        if len(content) > len(data):
            return b""
    return content


def _places(data: bytes, at: int, end: int) -> dict[int, tuple[tuple[int, int, int], ...]]:
    reader = _Locations(data, at, end)
    return {number: tuple((method, base + offset, length) for offset, length in parts)
            for number, method, _, base, parts in reader.items}  # fmt: skip


class _Locations:
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


def dressed(encoded: bytes, metadata: Metadata) -> bytes:
    """Return an encoded AVIF with EXIF and XMP items added. Profile and pixels stay as the encoder wrote them."""
    added = [(b"Exif", b"", struct.pack(">I", 0) + block.data) for block in metadata.all("exif")[:1]]
    added += [(b"mime", _XMP_TYPE, block.data) for block in metadata.all("xmp")[:1]]
    if not added:
        return encoded
    top = list(boxes(encoded, 0, len(encoded)))
    start, stop = next((start, stop) for kind, start, stop in top if kind == b"meta")
    children = {kind: encoded[begin:end] for kind, begin, end in boxes(encoded, start + 4, stop)}
    grown = len(_meta(children, encoded[start : start + 4], added, 0, 0)) - (stop - start + 8)
    end = len(encoded) + grown + 8  # the added bytes go into a new box at the end
    meta = _meta(children, encoded[start : start + 4], added, grown, end)
    content = b"".join(data for _, _, data in added)
    return encoded[: start - 8] + meta + encoded[stop:] + _box(b"mdat", content)


def _meta(
    children: dict[bytes, bytes], version: bytes, added: list[tuple[bytes, bytes, bytes]], grown: int, end: int
) -> bytes:
    """Return the `meta` box with the added items, whose bytes start at `end`; all others move by `grown` bytes."""
    located = _Locations(children[b"iloc"], 0, len(children[b"iloc"]))
    (primary,) = struct.unpack_from(">H" if children[b"pitm"][0] == 0 else ">I", children[b"pitm"], 4)
    number = max((one[0] for one in located.items), default=0)
    infos, references, entries = b"", b"", []
    for at, method, reference, base, parts in located.items:
        shift = grown if method == 0 else 0
        entries.append((at, method, reference, [(base + offset + shift, length) for offset, length in parts]))
    for kind, content_type, data in added:
        number += 1
        name = kind + b"\0" + (content_type + b"\0" if content_type else b"")
        # version 2, hidden, as it isn't an image to display
        infos += _box(b"infe", struct.pack(">IHH", 0x02000001, number, 0) + name)
        references += _box(b"cdsc", struct.pack(">HHH", number, 1, primary))
        entries.append((number, 0, 0, [(end, len(data))]))
        end += len(data)
    body = version
    for kind, content in children.items():
        if kind == b"iinf":
            content = _more_infos(content, infos, len(added))
        elif kind == b"iloc":
            content = _locations(entries)
        elif kind == b"iref":
            content += references
        body += _box(kind, content)
    if b"iref" not in children:
        body += _box(b"iref", bytes(4) + references)
    return _box(b"meta", body)


def _more_infos(content: bytes, infos: bytes, count: int) -> bytes:
    letter, width = ("H", 2) if content[0] == 0 else ("I", 4)
    (before,) = struct.unpack_from(">" + letter, content, 4)
    return content[:4] + struct.pack(">" + letter, before + count) + content[4 + width :] + infos


def _locations(entries: list[tuple[int, int, int, list[tuple[int, int]]]]) -> bytes:
    """Return the `iloc` box in version 1 with 64-bit positions, which suffice for a file of any size."""
    body = struct.pack(">IHH", 0x01000000, 0x8400, len(entries))
    for number, method, reference, parts in entries:
        body += struct.pack(">HHHH", number, method, reference, len(parts))
        for place, length in parts:
            body += struct.pack(">QI", place, length)
    return body


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content
