"""Metadata as found in a file, made true of the decoded picture: upright, without thumbnails and lost companions."""

from dataclasses import replace

from kbnet.imaging import exif, photoshop, xmp
from kbnet.imaging.containers.found import Found
from kbnet.imaging.photo import Block, Metadata

TURNED_BY_DECODER = ("avif",)
"""Formats that turn pictures by their own boxes, which the decoder has obeyed: their EXIF has no say."""


def orientation_of(found: Found, format: str) -> int:
    """How the stored pixels are to be turned: EXIF's number, 1 to 8."""
    if format in TURNED_BY_DECODER:
        return 1
    value = found.orientation or exif.orientation_of(found.first("exif") or b"")
    return value if 1 <= value <= 8 else 1


def settle(found: Found, orientation: int, *, turned: bool = True) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata that goes with the decoded pixels, and one line for each thing that was left out.

    `turned` says whether the pixels were turned by `orientation`, or are as the file stores them.
    """
    notes = list(found.notes) + [_extra_note(extra) for extra in found.extras]
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
        return "the HDR gain map is not kept; the standard picture is"
    return f"{extra} {'are' if extra.endswith('s') and not extra.startswith('a ') else 'is'} not kept"


def _settled(block: Block, orientation: int, *, turned: bool) -> tuple[Block | None, str]:
    """The block as it is to go on, or None and why not."""
    if block.kind == "exif":
        data = exif.upright(block.data, keep_orientation=not turned)
        return (None, "the EXIF block is damaged and is not kept") if data is None else (replace(block, data=data), "")
    if block.kind == "xmp":
        data = xmp.upright(block.data) if turned else block.data
        if xmp.companions(data):
            cut = xmp.without_companions(data)
            if cut is None:
                return None, "the XMP block, which describes pictures beside the main one, is not kept"
            data = cut
        return replace(block, data=data), ""
    if block.kind == "photoshop":
        data = photoshop.without_thumbnails(block.data)
        return (replace(block, data=data), "") if data else (None, "")
    if block.kind == "geo-tag" and turned and orientation != 1:
        return None, "GeoTIFF tags are not kept: they do not fit the turned picture"
    return block, ""
