"""Metadata of JPEG files: application segments, comments, and data after the image."""

import struct
from fractions import Fraction

from kbnet.imaging import exif, icc, photoshop, xmp
from kbnet.imaging.containers import tails
from kbnet.imaging.containers.found import Found
from kbnet.imaging.containers.scanning import EOI, SOS, Bytes, segments
from kbnet.imaging.containers.trailing import behind
from kbnet.imaging.photo import Block, Metadata, Resolution, Tail

LONGEST = 65533  # capacity of a segment, bytes
_MOST_MARKS = 4
_APP0, _COMMENT = 0xE0, 0xFE
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_EXTENDED = b"http://ns.adobe.com/xmp/extension/\0"
_ICC = b"ICC_PROFILE\0"
_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1\0"
# Segments about the encoding or about file offsets. JFIF is rewritten; Adobe and SPIFF describe the old encoding.
_CODING = ((0xE0, b"JFIF\0"), (0xEE, b"Adobe"), (0xE8, b"SPIFF\0"), (0xE2, _ICC), (0xE2, _GAIN_MAP), (0xE2, b"MPF\0"))
_THUMBNAILS = ((0xE0, b"JFXX\0"),)
_TEXTS = {exif.PREFIX: "exif", _XMP: "xmp"}


def collect(data: Bytes, *, whole: bool = True) -> Found:
    """Collect the metadata of a JPEG. `whole` tells whether to also look for its end, and for data after it."""
    found = Found.of_file(len(data))
    resources, extension, index = list[bytes](), dict[bytes, dict[int, bytes]](), b""
    marks: list[bytes] = []
    end: int | None = None
    for marker, start, stop in segments(data):
        if marker == EOI:
            end = stop
        if marker == SOS and not whole:
            break
        if not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            continue
        content = bytes(data[start:stop])
        kind = next((kind for prefix, kind in _TEXTS.items() if content.startswith(prefix)), None)
        if marker == _COMMENT:
            found.add("comment", content)
        elif marker == 0xE1 and kind is not None and found.first(kind) is None:
            found.add(kind, content[len(exif.PREFIX if kind == "exif" else _XMP) :])
        elif marker == 0xE1 and content.startswith(_EXTENDED):
            _gather_extension(content[len(_EXTENDED) :], extension)
        elif marker == 0xED and content.startswith(photoshop.PREFIX):
            resources.append(content[len(photoshop.PREFIX) :])
        elif marker == 0xEB and content.startswith(b"JP"):
            found.add("content-credentials" if b"c2pa" in content else "coding-extension", content, "APP11")
        elif any(marker == of and content.startswith(prefix) for of, prefix in _CODING):
            if content.startswith(_GAIN_MAP) and len(marks) < _MOST_MARKS:
                marks.append(content)
            if content.startswith(b"JFIF\0"):
                found.resolution = _density(content)
            if content.startswith(b"MPF\0"):
                index = content[4:]
        elif not any(marker == of and content.startswith(prefix) for of, prefix in _THUMBNAILS):
            found.add("segment", content, f"APP{marker - _APP0}")
    if resources:
        found.add("photoshop", b"".join(resources))
    _add_extension(found, extension)
    said = xmp.companions(found.first("xmp") or b"") | ({"gain map"} if marks else set())
    if end is not None:
        found.extras, found.tail = behind(data, end, said, _picture_kinds(index), index, tuple(marks))
    if "gain map" in said and "the HDR gain map" not in found.extras:
        found.notes.append("the description of an HDR gain map is not kept; the standard image is")
    return found


def _gather_extension(content: bytes, parts: dict[bytes, dict[int, bytes]]) -> None:
    if len(content) < 40:
        return
    guid, (length, offset) = content[:32], struct.unpack_from(">II", content, 32)
    parts.setdefault(guid, {-1: struct.pack(">I", length)})[offset] = content[40:]


def _add_extension(found: Found, parts: dict[bytes, dict[int, bytes]]) -> None:
    """Add the extension that the main packet refers to, if it is complete."""
    wanted = xmp.extension_guid(found.first("xmp") or b"")
    if not parts and wanted is None:
        return
    named = parts.get(wanted or b"")
    if named is not None:
        (length,) = struct.unpack(">I", named.pop(-1))
        whole = b"".join(piece for _, piece in sorted(named.items()))
        if len(whole) == length:
            found.add("extended-xmp", whole, wanted.decode() if wanted else "")
            return
    found.notes.append("the extended XMP is incomplete or belongs to another file, and is not kept")


def _density(content: bytes) -> Resolution | None:
    if len(content) < 12:
        return None
    unit, x, y = struct.unpack_from(">BHH", content, 7)
    if not x or not y or unit > 2 or (unit == 0 and x == y):
        return None
    return Resolution(Fraction(x), Fraction(y), ("", "inch", "cm")[unit])


def _picture_kinds(content: bytes) -> tuple[int, ...]:
    """Return the type that the index of a multi-picture file gives for each image."""
    found = exif.directory_of(content)
    entries = found[1].entries.get(0xB002) if found else None
    if found is None or entries is None:
        return ()
    order = found[0].order
    words = (struct.unpack_from(order + "I", entries.data, at)[0] for at in range(0, len(entries.data) - 15, 16))
    return tuple(word & 0xFFFFFF for word in words)


def dress(encoded: bytes, metadata: Metadata, profile: bytes | None, tail: Tail | None = None) -> bytes:
    """Return an encoded JPEG with these blocks instead of those that the encoder wrote, and the tail after it."""
    head = [_segment(_APP0, _jfif(metadata.resolution))]
    for kind, prefix in ((b"exif", exif.PREFIX), (b"xmp", _XMP)):
        head += [_segment(0xE1, prefix + block.data) for block in metadata.all(kind.decode())]
    for block in metadata.all("extended-xmp"):
        head += _extension(block)
    head += _photoshop(metadata)
    head += _icc(profile)
    head += [_segment(_APP0 + int(block.name[3:]), block.data) for block in metadata.all("segment")]
    head += [_segment(_COMMENT, block.data) for block in metadata.all("comment")]
    head += [_segment(0xE2, content) for content in (tails.announcement(tail) if tail else ())]
    first = next((start - 4 for marker, start, _ in segments(encoded) if not _is_metadata(marker)), 2)
    dressed = encoded[:2] + b"".join(head) + encoded[first:]
    return dressed if tail is None else tails.attach(dressed, tail)


def _is_metadata(marker: int) -> bool:
    return 0xE0 <= marker <= 0xEF or marker == _COMMENT


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _jfif(resolution: Resolution | None) -> bytes:
    """Return the JFIF header; without a resolution it specifies square pixels."""
    unit, x, y = 0, 1, 1
    if resolution is not None and not resolution.unit:
        x, y = _in_words(resolution.x, resolution.y)
    elif resolution is not None:
        inch, cm = resolution.per("inch"), resolution.per("cm")
        unit = 2 if _off(cm) < _off(inch) and _off(inch) > 0.02 else 1
        x, y = (max(1, min(65535, round(side))) for side in (cm if unit == 2 else inch))
    return b"JFIF\0" + struct.pack(">HBHHBB", 0x0102 if unit else 0x0101, unit, x, y, 0, 0)


def _in_words(x: Fraction, y: Fraction) -> tuple[int, int]:
    ratio = (x / y).limit_denominator(1000)
    return max(1, min(65535, ratio.numerator)), max(1, min(65535, ratio.denominator))


def _off(sides: tuple[Fraction, Fraction]) -> float:
    return float(max(abs(side - round(side)) for side in sides))


def _extension(block: Block) -> list[bytes]:
    guid, length = block.name.encode("ascii"), len(block.data)
    return [
        _segment(0xE1, _EXTENDED + guid + struct.pack(">II", length, at) + block.data[at : at + xmp.EXTENSION_LIMIT])
        for at in range(0, length, xmp.EXTENSION_LIMIT)
    ]


def _photoshop(metadata: Metadata) -> list[bytes]:
    """Return the Photoshop resources, split over as many segments as needed."""
    data = b"".join(block.data for block in metadata.all("photoshop"))
    room = LONGEST - len(photoshop.PREFIX)
    return [_segment(0xED, photoshop.PREFIX + data[at : at + room]) for at in range(0, len(data), room)]


def _icc(profile: bytes | None) -> list[bytes]:
    if profile is None or icc.icc_channels(profile) is None:
        return []
    room = LONGEST - len(_ICC) - 2
    pieces = [profile[at : at + room] for at in range(0, len(profile), room)]
    return [_segment(0xE2, _ICC + bytes([i + 1, len(pieces)]) + piece) for i, piece in enumerate(pieces)]
