"""Adapts a file's metadata to the decoded image: upright, without thumbnails or references to images that are lost."""

from dataclasses import replace

from kbnet.imaging import exif, photoshop, xmp
from kbnet.imaging.containers.found import RAW_DATA, Found
from kbnet.imaging.photo import Block, Metadata

TURNED_BY_DECODER = ("avif", "heic", "raw")
"""Formats with their own orientation boxes, which the decoder applies: the EXIF orientation is ignored."""


def orientation_of(found: Found, format: str) -> int:
    """Return the orientation to apply to the stored pixels, as in EXIF: 1 to 8."""
    if format in TURNED_BY_DECODER:
        return 1
    value = found.orientation or exif.orientation_of(found.first("exif") or b"")
    return value if 1 <= value <= 8 else 1


def settle(found: Found, orientation: int, *, turned: bool = True) -> tuple[Metadata, tuple[str, ...]]:
    """Return the metadata for the decoded pixels, and one line for each thing that was dropped.

    `turned` tells whether `orientation` was applied to the pixels, or they are as stored in the file.
    """
    notes = list(found.notes) + [_extra_note(extra) for extra in found.extras if extra != RAW_DATA]
    blocks = []
    for block in found.blocks:
        settled, note = _settled(block, orientation, turned=turned)
        if note and note not in notes:
            notes.append(note)
        if settled is not None:
            blocks.append(settled)
    resolution = found.resolution
    if resolution is not None and turned and orientation >= 5:
        resolution = replace(resolution, x=resolution.y, y=resolution.x)
    return Metadata(tuple(blocks), resolution), tuple(notes)


def _extra_note(extra: str) -> str:
    if extra == "the HDR gain map":
        return "the HDR gain map is not kept; the standard image is"
    return f"{extra} {'are' if extra.endswith('s') and not extra.startswith('a ') else 'is'} not kept"


def _settled(block: Block, orientation: int, *, turned: bool) -> tuple[Block | None, str]:
    """Return the adapted block, or None and a note on why it is dropped."""
    if block.kind == "exif":
        data = exif.upright(block.data, keep_orientation=not turned)
        return (None, "the EXIF block is damaged and is not kept") if data is None else (replace(block, data=data), "")
    if block.kind == "xmp":
        data = xmp.upright(block.data) if turned else block.data
        if xmp.companions(data):
            cut = xmp.without_companions(data)
            if cut is None:
                return None, "the XMP block, which describes additional images, is not kept"
            data = cut
        return replace(block, data=data), ""
    if block.kind == "photoshop":
        data = photoshop.without_thumbnails(block.data)
        return (replace(block, data=data), "") if data else (None, "")
    if block.kind == "geo-tag" and turned and orientation != 1:
        return None, "GeoTIFF tags are not kept: they do not match the rotated image"
    return block, ""
