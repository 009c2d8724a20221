"""Detects what phones and cameras append to an image in its file: a second image, a video, a sound."""

import re

from kbnet.imaging.containers.scanning import Bytes, picture_end

_VIDEO = re.compile(rb"ftyp(?:mp4|isom|iso\d|avc1|qt  |M4V|3gp|hvc1|hev1|MSNV|mp7)")
_SAMSUNG = (b"MotionPhoto_Data", b"SEFT")
_LITTLE = 1024  # bytes; less unknown data than this is padding or a manufacturer's mark
_LARGE_THUMBNAILS = (0x010001, 0x010002, 0x010003, 0x010004, 0x010005)


def extras_behind(data: Bytes, end: int, said: frozenset[str] = frozenset(), kinds: tuple[int, ...] = ()) -> list[str]:
    """Return the names of what follows an image that ends at `end`.

    Args:
        data: content of the file.
        end: position after the image.
        said: what the image's XMP announces: "video", "gain map", "depth".
        kinds: type of each image in the multi-picture index, including the first.
    """
    rest = data[end:]
    extras: list[str] = []
    video = _VIDEO.search(rest)
    if video is not None or b"MotionPhoto_Data" in rest:
        extras.append("the video of a motion photo")
    if re.search(rb"RIFF....WAVE", rest, re.DOTALL) or b"SoundShot_Meta_Info" in rest:
        extras.append("a sound recording")
    pictures = _pictures(rest[: video.start()] if video else rest)
    gain_maps = sum(1 for picture in pictures if _is_gain_map(picture))
    others = len(pictures) - gain_maps
    if others and not gain_maps and "gain map" in said:
        gain_maps, others = 1, others - 1
    if others and "depth" in said:
        extras.append("a depth map")
        others -= 1
    # previews of the main image are as dispensable as its thumbnail
    others = max(0, others - sum(1 for kind in kinds[1:] if kind in _LARGE_THUMBNAILS))
    if gain_maps:
        extras.append("the HDR gain map")
    if others:
        extras.append("a second image" if others == 1 else f"{others} more images")
    known = extras or pictures or any(mark in rest for mark in _SAMSUNG)
    if not known and len(rest.strip(b"\0\xff \r\n\t")) > _LITTLE:
        extras.append(f"{len(rest)} bytes of unknown data after the image")
    return extras


def _pictures(rest: bytes) -> list[bytes]:
    """Split concatenated JPEG files. Thumbnails inside a file stay part of it."""
    pictures, at = [], rest.find(b"\xff\xd8\xff")
    while at >= 0:
        end = picture_end(rest, at)
        if end is None:
            break
        pictures.append(rest[at:end])
        at = rest.find(b"\xff\xd8\xff", end)
    return pictures


def _is_gain_map(picture: bytes) -> bool:
    head = picture[:65536]
    return any(mark in head for mark in (b"hdrgm:", b"urn:iso:std:iso:ts:21496:-1", b"ns.apple.com/HDRGainMap"))
