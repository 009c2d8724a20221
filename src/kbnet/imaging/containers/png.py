"""Metadata of PNG files: the chunks other than the encoded pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

from kbnet.imaging import icc, photoshop
from kbnet.imaging.containers.found import Found
from kbnet.imaging.containers.trailing import extras_behind
from kbnet.imaging.photo import Block, Metadata, Resolution

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = ("tEXt", "zTXt", "iTXt")
COLOURS = ("cICP", "sRGB", "gAMA", "cHRM", "mDCV", "cLLI")
WORDS = {
    "bKGD": "background colour",
    "hIST": "histogram of the palette",
    "oFFs": "offset on a page",
    "pCAL": "calibration of pixel values",
    "sBIT": "number of significant bits",
    "sCAL": "physical scale",
    "sPLT": "suggested palette",
    "sTER": "layout of a stereo pair",
    "tIME": "time of the last change",
}
"""Descriptions of the standard's other chunks."""

_CODING = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"iCCP", b"acTL", b"fcTL", b"fdAT")
_XMP_KEY = b"XML:com.adobe.xmp"
_RAW = b"Raw profile type "
_RAW_KINDS = {b"exif": "exif", b"APP1": "exif", b"xmp": "xmp", b"iptc": "photoshop", b"8bim": "photoshop"}
_LARGEST = 1 << 28  # largest chunk that is kept, bytes
_LARGEST_UNPACKED = 1 << 26


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, content position and content length of each chunk, up to the first incomplete one."""
    size = file.seek(0, 2)
    at = len(SIGNATURE)
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        if at + 12 + length > size:
            return
        yield kind, at + 8, length
        at += 12 + length
        if kind == b"IEND":
            return


def collect(file: BinaryIO, *, whole: bool = True) -> Found:
    """Collect the metadata of a PNG. `whole` tells whether to also look behind the encoded pixels."""
    found, head, palette, end = Found.of_file(file.seek(0, 2)), b"", b"", 0
    for kind, at, length in chunks(file):
        if kind == b"IDAT" and not whole:
            break
        if kind == b"IEND":
            end = at + length + 4
        if kind in (b"IDAT", b"fdAT") or length > _LARGEST:
            continue
        file.seek(at)
        content = file.read(length)
        if kind == b"IHDR":
            head = content
        elif kind == b"PLTE":
            palette = content
        elif kind not in _CODING:
            _add(found, kind.decode("latin-1"), content, head, palette)
    if end:
        file.seek(end)
        rest = file.read(_LARGEST)
        found.extras += extras_behind(rest, 0) if rest else []
    return found


def _add(found: Found, kind: str, content: bytes, head: bytes, palette: bytes) -> None:
    depth, colour = (head[8], head[9]) if len(head) >= 13 else (8, 2)
    if kind in TEXTS:
        _add_text(found, kind, content)
    elif kind == "eXIf":
        found.add("exif", content)
    elif kind in COLOURS:
        found.add("colour", content, kind)
    elif kind == "pHYs" and len(content) == 9:
        found.resolution = _resolution(content)
    elif kind == "caBX":
        found.add("content-credentials", content, kind)
    elif kind == "bKGD":
        background = _background(content, depth, colour, palette)
        if background is not None:
            found.add("chunk", background, kind, code=max(depth, 8))
    elif kind == "sBIT":
        if any(bits < depth for bits in content) and colour != 3:
            found.add("chunk", content, kind)
    elif kind == "hIST":
        found.add("chunk", content, kind)
    else:
        # a lower-case last letter: safe to copy for programs that don't know the chunk, whatever they change
        known = kind in WORDS and kind not in ("sPLT",)
        found.add("chunk" if known or kind[3].islower() else "dependent-chunk", content, kind)


def _resolution(content: bytes) -> Resolution | None:
    x, y, unit = struct.unpack(">IIB", content)
    if not x or not y or (unit != 1 and x == y):
        return None
    return Resolution(Fraction(x), Fraction(y), "metre" if unit == 1 else "")


def _background(content: bytes, depth: int, colour: int, palette: bytes) -> bytes | None:
    """Convert the background colour to the decoded image, which has no palette and 8-bit or 16-bit samples."""
    if colour == 3:
        entry = palette[3 * content[0] : 3 * content[0] + 3] if content else b""
        return struct.pack(">3H", *entry) if len(entry) == 3 else None
    if len(content) != (2 if colour in (0, 4) else 6):
        return None
    if depth < 8:
        return struct.pack(">H", struct.unpack(">H", content)[0] * 255 // ((1 << depth) - 1) & 255)
    return content


def _add_text(found: Found, kind: str, content: bytes) -> None:
    key = content.split(b"\0", 1)[0]
    if kind == "iTXt" and key == _XMP_KEY:
        text = _itxt(content, found)
        if text is not None:
            found.add("xmp", text)
            return
    if key.startswith(_RAW) and key[len(_RAW) :] in _RAW_KINDS:
        what = _RAW_KINDS[key[len(_RAW) :]]
        data = _raw_profile(kind, content, found)
        if data is not None:
            _add_raw(found, what, data)
            return
    found.add("text", content, kind)


def _add_raw(found: Found, what: str, data: bytes) -> None:
    """Add a block that ImageMagick stored as hexadecimal text, before PNG had chunks for it."""
    if what == "exif" and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        what, data = "xmp", data.split(b"\0", 1)[1]
    if what == "photoshop":
        data = data.removeprefix(photoshop.PREFIX)
        what, data = ("photoshop", data) if data.startswith(b"8BIM") else ("iptc", data)
    found.add(what, data.removeprefix(b"Exif\0\0") if what == "exif" else data)


def _unpacked(data: bytes, found: Found) -> bytes | None:
    """Unpack a text, at the expense of the room for blocks. None if it is damaged or too long."""
    unpacker = zlib.decompressobj()
    try:
        # at least 1, since 0 means no limit
        text = unpacker.decompress(data, max(1, min(_LARGEST_UNPACKED, found.room)))
    except zlib.error:
        return None
    found.take(len(text))
    return text if unpacker.eof else None


def _itxt(content: bytes, found: Found) -> bytes | None:
    parts = content.split(b"\0", 1)
    if len(parts) < 2 or len(parts[1]) < 2:
        return None
    packed, rest = parts[1][0], parts[1][2:].split(b"\0", 2)
    if len(rest) < 3:
        return None
    return _unpacked(rest[2], found) if packed else rest[2]


def _raw_profile(kind: str, content: bytes, found: Found) -> bytes | None:
    text = _bytes_of(kind, content, found)
    try:
        # not into lines: of short ones, each would take many times its length
        _, length, digits = (text or b"").split(None, 2)
        data = bytes.fromhex(digits.decode("ascii"))
        return data if len(data) == int(length) else None
    except ValueError:
        return None


def _bytes_of(kind: str, content: bytes, found: Found) -> bytes | None:
    if kind == "iTXt":
        return _itxt(content, found)
    rest = content.split(b"\0", 1)[1:]
    if not rest:
        return None
    return rest[0] if kind == "tEXt" else _unpacked(rest[0][1:], found)


def text_of(block: Block) -> tuple[str, str] | None:
    """Return the keyword and the text of a text block; None if it is damaged."""
    text = _bytes_of(block.name, block.data, Found())
    if text is None:
        return None
    key = block.data.split(b"\0", 1)[0].decode("latin-1")
    return key, text.decode("utf-8" if block.name == "iTXt" else "latin-1", "replace")


def text_block(keyword: str, text: str) -> Block:
    """Return a text chunk: tEXt if Latin-1 can encode the text, else iTXt."""
    key = keyword.encode("latin-1", "replace")[:79]
    try:
        return Block("text", key + b"\0" + text.encode("latin-1"), "tEXt")
    except UnicodeEncodeError:
        return Block("text", key + b"\0\0\0\0\0" + text.encode(), "iTXt")


def raw_profile_block(name: str, data: bytes) -> Block:
    """Return bytes as a compressed text chunk of hexadecimal digits, which PNG readers recognize by its keyword."""
    digits = data.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    text = f"\n{name}\n{len(data):8d}\n{lines}\n".encode("ascii")
    return Block("text", _RAW + name.encode("ascii") + b"\0\0" + zlib.compress(text), "zTXt")


def dress(file: BinaryIO, target: BinaryIO, metadata: Metadata, profile: bytes | None) -> None:
    """Copy an encoded PNG with these blocks instead of those that the encoder wrote."""
    target.write(SIGNATURE)
    for kind, at, length in chunks(file):
        if kind not in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            continue
        file.seek(at - 8)
        if kind == b"IDAT":
            _copy(file, target, length + 12)
            continue
        target.write(file.read(length + 12))
        if kind == b"IHDR":
            for name, content in _before_pixels(metadata, profile):
                target.write(chunk(name, content))


def _copy(file: BinaryIO, target: BinaryIO, length: int) -> None:
    piece = 1 << 20
    while length > 0:
        data = file.read(min(piece, length))
        if not data:
            return
        target.write(data)
        length -= len(data)


def _before_pixels(metadata: Metadata, profile: bytes | None) -> Iterator[tuple[str, bytes]]:
    for block in metadata.all("colour"):
        yield block.name, block.data
    if profile is not None:
        name = icc.icc_name(profile).encode("latin-1", "replace").strip()[:79] or b"ICC profile"
        yield "iCCP", name + b"\0\0" + zlib.compress(profile)
    if metadata.resolution is not None:
        yield "pHYs", _physical(metadata.resolution)
    for block in metadata.all("chunk"):
        yield block.name, block.data
    for block in metadata.all("exif"):
        yield "eXIf", block.data
    for block in metadata.all("xmp"):
        yield "iTXt", _XMP_KEY + b"\0\0\0\0\0" + block.data
    for block in metadata.all("text"):
        yield block.name, block.data


def _physical(resolution: Resolution) -> bytes:
    sides = resolution.per("metre") if resolution.unit else (resolution.x, resolution.y)
    x, y = (max(1, min(2**31 - 1, round(side))) for side in sides)
    return struct.pack(">IIB", x, y, 1 if resolution.unit else 0)


def chunk(kind: str, content: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    name = kind.encode("latin-1")
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def dressed(encoded: bytes, metadata: Metadata, profile: bytes | None) -> bytes:
    """Like `dress`, from bytes to bytes."""
    target = io.BytesIO()
    dress(io.BytesIO(encoded), target, metadata, profile)
    return target.getvalue()
