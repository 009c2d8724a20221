"""What follows the image in a JPEG file and remains valid for its restored version: a gain map, a depth map, a video.

Tail of the input --upright--> Tail for upright pixels --announcement, attach--> the end of the result
"""

import struct
from dataclasses import replace

from kbnet.imaging import exif
from kbnet.imaging._vips import FAILURES, pyvips
from kbnet.imaging.containers.scanning import Bytes, picture_end, segments
from kbnet.imaging.photo import Tail

GAIN_MAP, VIDEO, DEPTH = "the HDR gain map", "the video of a motion photo", "a depth map"
_SAID = {GAIN_MAP: "gain map", VIDEO: "video", DEPTH: "depth"}
_LONGEST = 64 << 20  # bytes
_MOST_IMAGES = 4
_ENTRIES, _ENTRY = 0xB002, 16  # of the MPF index: its tag, bytes per image
_TURNS = {2: "h", 3: "rr", 4: "v", 5: "rh", 6: "r", 7: "rv", 8: "rrr"}  # a quarter turn clockwise, then a flip


def images(data: Bytes) -> list[tuple[int, int]]:
    """Return start and end of each JPEG file in concatenated ones. Thumbnails inside a file stay part of it."""
    found, at = [], data.find(b"\xff\xd8\xff")
    while at >= 0:
        end = picture_end(data, at)
        if end is None:
            break
        found.append((at, end))
        at = data.find(b"\xff\xd8\xff", end)
    return found


def kept(
    data: bytes, video: int | None, names: list[str], said: frozenset[str], index: bytes, marks: tuple[bytes, ...]
) -> Tail | None:
    """Return the tail if all of it remains valid for a restored image, else None.

    Args:
        data: all bytes after the image.
        video: position of the video in it, or None.
        names: what it contains.
        said: what the image's XMP announces; a tail without it would make the XMP wrong.
        index: the MPF index, from its TIFF header; empty if there is none.
        marks: contents of other segments of the image that announce it.
    """
    if not names or len(data) > _LONGEST or any(name not in _SAID for name in names):
        return None
    if not said <= {_SAID[name] for name in names}:
        return None
    spans = images(data[:video])
    if len(spans) > _MOST_IMAGES or (index and len(_entries(index)) != 1 + len(spans)):
        return None
    return Tail(tuple(names), data, tuple(spans), index, marks)


def upright(tail: Tail, orientation: int, pixels: int) -> tuple[Tail, dict[int, int]] | None:
    """Return the tail for pixels that were turned upright, and the new length of each of its images by the old one.

    Its images are turned like the main image, and encoded again.

    Args:
        tail: the tail of the file.
        orientation: the main image's, 1 to 8.
        pixels: of the main image; the others together may have as many.

    Returns:
        None if an image can't be decoded, the images have too many pixels, or two have the same length.
    """
    if orientation == 1:
        return tail, {}
    pieces: list[bytes] = []
    spans: list[tuple[int, int]] = []
    lengths: dict[int, int] = {}
    last = at = 0
    for start, stop in tail.images:
        turned = _turned(tail.data[start:stop], orientation, pixels)
        if turned is None or stop - start in lengths:
            return None
        image, count = turned
        pixels -= count
        pieces += [tail.data[last:start], image]
        at += start - last
        spans.append((at, at + len(image)))
        at, last = at + len(image), stop
        lengths[stop - start] = len(image)
    return replace(tail, data=b"".join((*pieces, tail.data[last:])), images=tuple(spans)), lengths


def _turned(jpeg: bytes, orientation: int, most: int) -> tuple[bytes, int] | None:
    """Turn a JPEG of at most so many pixels, and return it with its own metadata, and the number of its pixels."""
    try:
        image = pyvips.Image.jpegload_buffer(jpeg, memory=True)
        count = image.width * image.height
        if count > most:
            return None
        for step in _TURNS[orientation]:
            image = image.rot90() if step == "r" else image.fliphor() if step == "h" else image.flipver()
        encoded = bytes(image.jpegsave_buffer(Q=95, subsample_mode="off", keep="none"))
    except FAILURES:
        return None
    head = b"".join(
        jpeg[start - 4 : stop]
        for marker, start, stop in segments(jpeg)
        if 0xE1 <= marker <= 0xEF and marker != 0xEE and not jpeg.startswith(exif.PREFIX, start)
    )
    first = next((start - 4 for marker, start, _ in segments(encoded) if not 0xE0 <= marker <= 0xEF), None)
    return None if first is None else (encoded[:2] + head + encoded[first:], count)


def announcement(tail: Tail) -> list[bytes]:
    """Return the contents of the APP2 segments that announce the tail; `attach` completes the index, which is last."""
    return [*tail.marks, *([b"MPF\0" + tail.index] if tail.index else [])]


def attach(image: bytes, tail: Tail) -> bytes:
    """Append the tail to a complete JPEG that announces it, and set sizes and offsets in its index."""
    whole = bytearray(image + tail.data)
    if tail.index:
        base = next(
            start + 4 for marker, start, _ in segments(image) if marker == 0xE2 and image[start : start + 4] == b"MPF\0"
        )
        order = "<" if tail.index[:1] == b"I" else ">"
        places = [(0, len(image)), *((len(image) + start, len(image) + stop) for start, stop in tail.images)]
        for number, (at, (start, stop)) in enumerate(zip(_entries(tail.index), places, strict=True)):
            offset = start - base if number else 0
            struct.pack_into(order + "II", whole, base + at + 4, stop - start, offset)
    return bytes(whole)


def _entries(index: bytes) -> list[int]:
    """Return the position of each image's entry in an MPF index."""
    found = exif.directory_of(index)
    entry = found[1].entries.get(_ENTRIES) if found else None
    return [] if entry is None else [entry.at + at for at in range(0, len(entry.data) - _ENTRY + 1, _ENTRY)]
