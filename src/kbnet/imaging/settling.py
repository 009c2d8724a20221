"""Adapts a file's metadata to the decoded image: upright, without thumbnails or references to images that are lost."""

from collections.abc import Mapping
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


def settle(
    found: Found, orientation: int, *, turned: bool = True, kept: bool = False, lengths: Mapping[int, int] | None = None
) -> tuple[Metadata, tuple[str, ...]]:
    """Return the metadata for the decoded pixels, and one line for each thing that was dropped.

    Args:
        found: what the file contains.
        orientation: the image's, 1 to 8.
        turned: whether `orientation` was applied to the pixels, or they are as stored in the file.
        kept: whether the photo keeps what follows the image.
        lengths: new length of each image that follows the main one, by its old length.
    """
    lost = [] if kept else [extra for extra in found.extras if extra != RAW_DATA]
    notes = list(found.notes) + [extra_note(extra) for extra in lost]
    blocks = []
    for block in found.blocks:
        settled, note = _settled(block, orientation, turned=turned, kept=kept)
        if settled is not None and kept and block.kind == "xmp":
            settled = replace(settled, data=xmp.with_lengths(settled.data, lengths or {}))
        if note and note not in notes:
            notes.append(note)
        if settled is not None:
            blocks.append(settled)
    resolution = found.resolution
    if resolution is not None and turned and orientation >= 5:
        resolution = replace(resolution, x=resolution.y, y=resolution.x)
    return Metadata(tuple(blocks), resolution), tuple(notes)


def without_tail(metadata: Metadata) -> tuple[Metadata, tuple[str, ...]]:
    """Return the metadata without descriptions of what follows the image, and one line for each block dropped."""
    settled = [_without_companions(block) if block.kind == "xmp" else (block, "") for block in metadata.blocks]
    blocks = tuple(block for block, _ in settled if block is not None)
    return replace(metadata, blocks=blocks), tuple(note for _, note in settled if note)


def extra_note(extra: str) -> str:
    """Return the note on an image, a video or a sound that a result can't contain."""
    if extra == "the HDR gain map":
        return "the HDR gain map is not kept; the standard image is"
    return f"{extra} {'are' if extra.endswith('s') and not extra.startswith('a ') else 'is'} not kept"


def _settled(block: Block, orientation: int, *, turned: bool, kept: bool) -> tuple[Block | None, str]:
    """Return the adapted block, or None and a note on why it is dropped."""
    if block.kind == "exif":
        data = exif.upright(block.data, keep_orientation=not turned)
        return (None, "the EXIF block is damaged and is not kept") if data is None else (replace(block, data=data), "")
    if block.kind == "xmp":
        block = replace(block, data=xmp.upright(block.data) if turned else block.data)
        return (block, "") if kept else _without_companions(block)
    if block.kind == "photoshop":
        data = photoshop.without_thumbnails(block.data)
        return (replace(block, data=data), "") if data else (None, "")
    if block.kind == "geo-tag" and turned and orientation != 1:
        return None, "GeoTIFF tags are not kept: they do not match the rotated image"
    return block, ""


def _without_companions(block: Block) -> tuple[Block | None, str]:
    if not xmp.companions(block.data):
        return block, ""
    cut = xmp.without_companions(block.data)
    if cut is None:
        return None, "the XMP block, which describes additional images, is not kept"
    return replace(block, data=cut), ""
