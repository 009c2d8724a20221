"""Detects what phones and cameras append to an image in its file: a second image, a video, a sound."""

import re

from kbnet.imaging.containers import tails
from kbnet.imaging.containers.scanning import Bytes
from kbnet.imaging.photo import Tail

_VIDEO = re.compile(rb"ftyp(?:mp4|isom|iso\d|avc1|qt  |M4V|3gp|hvc1|hev1|MSNV|mp7)")
_SAMSUNG = (b"MotionPhoto_Data", b"SEFT")
_LITTLE = 1024  # bytes; less unknown data than this is padding or a manufacturer's mark
_LARGE_THUMBNAILS = (0x010001, 0x010002, 0x010003, 0x010004, 0x010005)


def extras_behind(data: Bytes, end: int) -> list[str]:
    """Return the names of what follows an image that ends at `end`, in a format that can't keep it."""
    rest = data[end:]
    return _names(rest, _video(rest), frozenset(), ())


def behind(
    data: Bytes,
    end: int,
    said: frozenset[str] = frozenset(),
    kinds: tuple[int, ...] = (),
    index: bytes = b"",
    marks: tuple[bytes, ...] = (),
) -> tuple[list[str], Tail | None]:
    """Return the names of what follows an image that ends at `end`, and the tail if a result can keep it.

    Args:
        data: content of the file.
        end: position after the image.
        said: what the image's XMP announces: "video", "gain map", "depth".
        kinds: type of each image in the MPF index, including the first.
        index: the MPF index, from its TIFF header; empty if there is none.
        marks: contents of other segments of the image that announce what follows it.
    """
    rest = data[end:]
    video = _video(rest)
    names = _names(rest, video, said, kinds)
    previews = any(kind in _LARGE_THUMBNAILS for kind in kinds[1:])
    return names, None if previews else tails.kept(rest, video, names, said, index, marks)


def _video(rest: bytes) -> int | None:
    """Return the position of a video, or None."""
    found = _VIDEO.search(rest)
    return None if found is None else found.start()


def _names(rest: bytes, video: int | None, said: frozenset[str], kinds: tuple[int, ...]) -> list[str]:
    extras: list[str] = []
    if video is not None or b"MotionPhoto_Data" in rest:
        extras.append(tails.VIDEO)
    if re.search(rb"RIFF....WAVE", rest, re.DOTALL) or b"SoundShot_Meta_Info" in rest:
        extras.append("a sound recording")
    images = [rest[start:stop] for start, stop in tails.images(rest[:video])]
    gain_maps = sum(1 for image in images if _is_gain_map(image))
    others = len(images) - gain_maps
    if others and not gain_maps and "gain map" in said:
        gain_maps, others = 1, others - 1
    if others and "depth" in said:
        extras.append(tails.DEPTH)
        others -= 1
    # previews of the main image are as dispensable as its thumbnail
    others = max(0, others - sum(1 for kind in kinds[1:] if kind in _LARGE_THUMBNAILS))
    if gain_maps:
        extras.append(tails.GAIN_MAP)
    if others:
        extras.append("a second image" if others == 1 else f"{others} more images")
    known = extras or images or any(mark in rest for mark in _SAMSUNG)
    if not known and len(rest.strip(b"\0\xff \r\n\t")) > _LITTLE:
        extras.append(f"{len(rest)} bytes of unknown data after the image")
    return extras


def _is_gain_map(image: bytes) -> bool:
    head = image[:65536]
    return any(mark in head for mark in (b"hdrgm:", b"urn:iso:std:iso:ts:21496:-1", b"ns.apple.com/HDRGainMap"))
