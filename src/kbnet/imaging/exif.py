"""EXIF blocks: resets the orientation, removes the thumbnail, and converts between TIFF tags and other formats.

A block begins at its TIFF header. Everything else keeps its bytes and position, so that maker notes with offsets stay
valid.
"""

import io
import struct
from dataclasses import replace

from kbnet.imaging import ifd
from kbnet.imaging.ifd import Directory, Entry, Form

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
MAKER_NOTE = 0x927C
MOVED = "moved"
"""Name of a block whose parts are no longer at their original offsets, which is the case after a TIFF."""
MOVED_NOTE = "the maker notes in EXIF were moved; some programs may be unable to read them"
_THUMBNAIL_AT, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_WIDTH, _HEIGHT = 0xA002, 0xA003  # in the EXIF directory: size of the stored image

RESOLUTION_TAGS = (282, 283, 296)
DESCRIPTIVE = frozenset({269, 270, 271, 272, 285, 305, 306, 315, 316, 337, 18246, 18249, 33432, *range(40091, 40096)})
"""Tags in a TIFF's first directory that an EXIF block also has in its first directory: description, make, artist ..."""

STORAGE = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291}
    | {292, 293, 297, 317, 320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 333, 334, 336, 338, 339, 340, 341}
    | {342, 346, 347, *range(512, 522), 529, 530, 531, 532, 559, 32781, 34665, 34853, 40965, 400, 401}
)
"""Tags that describe how pixels are stored, or that point to other data. Encoding the pixels rewrites them."""

ELSEWHERE = frozenset({700, 33723, 34377, 34675, 37724})
"""TIFF tags for XMP, IPTC, Photoshop resources, the colour profile, and Photoshop layers."""


def directory_of(block: bytes) -> tuple[Form, Directory] | None:
    """Return the first directory of an EXIF block with its child directories; None if it isn't EXIF."""
    file = io.BytesIO(block)
    form = ifd.read_form(file)
    directory = None if form is None else ifd.read_directory(file, form, form.first)
    return None if form is None or directory is None else (form, directory)


def orientation_of(block: bytes) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or invalid."""
    found = directory_of(block.removeprefix(PREFIX))
    value = found[1].number(ORIENTATION, 1) if found else 1
    return value if 1 <= value <= 8 else 1


def upright(exif: bytes, *, keep_orientation: bool = False) -> bytes | None:
    """Return the EXIF block from its TIFF header, with orientation 1 and without thumbnail; None if it isn't EXIF.

    The thumbnail would show the unrestored image. Width and height are swapped if the image is rotated by 90 degrees.
    `keep_orientation` is for pixels that aren't rotated.
    """
    block = bytearray(exif.removeprefix(PREFIX))
    found = directory_of(bytes(block))
    if found is None:
        return None
    form, directory = found
    if not keep_orientation:
        turn = directory.number(ORIENTATION, 1)
        _put(block, form, directory.entries.get(ORIENTATION), 1)
        inner = directory.children.get(ifd.EXIF_IFD)
        if inner is not None and 5 <= turn <= 8 and {_WIDTH, _HEIGHT} <= inner.entries.keys():
            width, height = inner.number(_WIDTH), inner.number(_HEIGHT)
            _put(block, form, inner.entries[_WIDTH], height)
            _put(block, form, inner.entries[_HEIGHT], width)
    return bytes(_without_thumbnail(block, form, directory))


def _put(block: bytearray, form: Form, entry: Entry | None, value: int) -> None:
    if entry is not None and entry.first(1) and entry.kind in (ifd.SHORT, ifd.LONG):
        letter = "H" if entry.kind == ifd.SHORT else "I"
        if value < 1 << (8 * struct.calcsize(letter)):
            struct.pack_into(form.order + letter, block, entry.at, value)


def _without_thumbnail(block: bytearray, form: Form, directory: Directory) -> bytearray:
    """Unlink the second directory, which only describes the thumbnail, and zero the thumbnail's bytes."""
    second = ifd.read_directory(io.BytesIO(bytes(block)), form, directory.next, children=False)
    if directory.next_at + form.inline <= len(block):
        block[directory.next_at : directory.next_at + form.inline] = bytes(form.inline)
    if second is None:
        return block
    start, length = second.number(_THUMBNAIL_AT), second.number(_THUMBNAIL_LENGTH)
    end = start + length
    # only if it is a JPEG and outside the directory before it: in damaged blocks, the range can be anything
    if not (0 < start < end <= len(block)) or block[start : start + 2] != b"\xff\xd8" or start < second.next_at:
        return block
    if end == len(block):
        return block[:start]
    block[start:end] = bytes(length)
    return block


def from_tiff(directory: Directory, form: Form) -> bytes | None:
    """Return an EXIF block from a TIFF's descriptive tags, EXIF, GPS and resolution; None if only resolution exists."""
    entries = {tag: entry for tag, entry in directory.entries.items() if tag in DESCRIPTIVE}
    if not entries and not directory.children:
        return None
    entries |= {tag: entry for tag, entry in directory.entries.items() if tag in RESOLUTION_TAGS}
    return _block(Directory(entries, directory.children), form.order)


def of_texts(texts: dict[int, str]) -> bytes:
    """Return an EXIF block that contains only these texts, by tag."""
    return _block(Directory({tag: ifd.ascii_entry(tag, text) for tag, text in texts.items()}), "<")


def _block(directory: Directory, order: str) -> bytes:
    form = Form(order, big=False, first=8)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + ifd.dump(directory, 8, form)


def oriented(block: bytes | None, orientation: int) -> bytes:
    """Return an EXIF block with this orientation, otherwise unchanged; a new one instead of none or a damaged one."""
    if block is not None and orientation_of(block) == orientation:
        return block
    form, directory = directory_of((block or b"").removeprefix(PREFIX)) or (Form("<", big=False, first=8), Directory())
    entry = Entry(ORIENTATION, ifd.SHORT, struct.pack("<H", orientation))
    return _block(replace(directory, entries=directory.entries | {ORIENTATION: entry}), form.order)


def for_tiff(block: bytes) -> Directory | None:
    """Return the part of an EXIF block that belongs in a TIFF's first directory, with its child directories."""
    found = directory_of(block)
    if found is None:
        return None
    return ifd.without(found[1], STORAGE | ELSEWHERE)


def has_maker_note(block: bytes) -> bool:
    """Return whether the block contains maker notes."""
    found = directory_of(block)
    inner = found[1].children.get(ifd.EXIF_IFD) if found else None
    return inner is not None and MAKER_NOTE in inner.entries
