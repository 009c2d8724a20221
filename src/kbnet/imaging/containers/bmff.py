"""Metadata of files made of ISO boxes, AVIF and HEIF: reads and adds items.

An item's description is a box inside `meta`; its bytes can be anywhere. Adding one moves everything after `meta`.
"""

import struct
from typing import BinaryIO

from kbnet.imaging import icc
from kbnet.imaging.containers.boxes import Item, Locations, boxes, items
from kbnet.imaging.containers.found import Found
from kbnet.imaging.containers.heif import Facts, describe
from kbnet.imaging.containers.trailing import extras_behind
from kbnet.imaging.photo import Metadata

_XMP_TYPE = b"application/rdf+xml"
_DEPTH = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth", b"urn:mpeg:hevc:2015:auxid:2")
_GAIN_MAPS = (b"urn:com:apple:photo:2020:aux:hdrgainmap",)
_KNOWN_BOXES = (b"ftyp", b"meta", b"mdat", b"free", b"skip", b"moov", b"pdin", b"mpvd", b"uuid")
_CONTENT_CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of an AVIF or HEIF file."""
    file.seek(0)
    data = file.read()
    found, facts, end = Found.of_file(len(data)), describe(data), 0
    for kind, start, stop in boxes(data, 0, len(data)):
        if kind not in _KNOWN_BOXES:
            break
        end = stop
        if kind == b"meta":
            _collect_items(found, data, start, stop, facts)
        elif kind == b"mpvd":
            found.extras.append("the video of a motion photo")
        elif kind == b"uuid" and data[start : start + 16] == _CONTENT_CREDENTIALS:
            found.add("content-credentials", data[start:stop], "uuid")
    found.extras += extras_behind(data, end) if end else []
    return found


def _collect_items(found: Found, data: bytes, start: int, stop: int, facts: Facts | None) -> None:
    idat = next((begin for kind, begin, _ in boxes(data, start + 4, stop) if kind == b"idat"), 0)
    others: dict[bytes, None] = {}  # a set that keeps the order
    for item in items(data, start, stop):
        # only the first of each kind is read: any number of items may be at the same place
        if item.kind == b"Exif" and found.first("exif") is None:
            content = _content(found, data, item, idat)
            if len(content) > 4:
                found.add("exif", content[4 + struct.unpack_from(">I", content)[0] :])
        elif item.kind == b"mime" and item.content_type == _XMP_TYPE and found.first("xmp") is None:
            found.add("xmp", _content(found, data, item, idat))
        elif item.kind == b"tmap":
            found.extras.append("the HDR gain map")
        elif item.kind == b"jumb":
            found.add("content-credentials", b"", "jumb")
        elif item.kind in (b"Exif", b"mime", b"uri "):
            others[item.content_type[:100] or item.kind] = None
    found.notes += [f"an item of type {of.decode('latin-1')!r} is not kept" for of in list(others)[:10]]
    codes = facts.codes if facts is not None else colour_codes(data[start:stop])
    if codes is not None and not icc.means_srgb(*struct.unpack(">HH", codes)):
        found.add("colour", codes, "nclx")
    found.extras += [name for name in (facts.auxiliary if facts is not None else ()) if name not in found.extras]
    if facts is not None and facts.others:
        found.extras.append("a second image" if facts.others == 1 else f"{facts.others} more images")
    # only these names distinguish auxiliary images from transparency
    properties = data[start:stop]
    for name, marks in (("a depth map", _DEPTH), ("the HDR gain map", _GAIN_MAPS)):
        if any(mark in properties for mark in marks) and name not in found.extras:
            found.extras.append(name)


def colour_codes(data: bytes) -> bytes | None:
    """Return primaries and transfer, two bytes each, from the first nclx colour box; None if there is none."""
    at = data.find(b"colrnclx")
    return data[at + 8 : at + 12] if 0 <= at <= len(data) - 12 else None


def _content(found: Found, data: bytes, item: Item, idat: int) -> bytes:
    parts: list[bytes] = []
    for method, place, length in item.parts:
        if method == 1:
            place += idat
        elif method != 0:
            return b""
        parts.append(data[place : place + (length or len(data))])
        found.take(len(parts[-1]))
    return b"".join(parts)


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
    located = Locations(children[b"iloc"], 0, len(children[b"iloc"]))
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
