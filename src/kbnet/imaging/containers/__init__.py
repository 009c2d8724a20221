"""Picture files as containers: what lies in them beside the pixels, found in files and put into encoded ones.

    file --collect--> Found        bytes of an encoder, Photo --dress--> bytes of a file

libvips decodes and encodes the pixels alone: its writers drop EXIF tags that they do not know, and invent resolutions.
"""

import io
import mmap
import struct
from typing import BinaryIO

from kbnet.imaging.containers import bmff, bmp, gif, jpeg, png, tiff, webp
from kbnet.imaging.containers.found import Found
from kbnet.imaging.photo import Photo

_IN_MEMORY = 1 << 30  # bytes of a JPEG up to which it is read, and not mapped


def collect(file: BinaryIO, format: str, *, whole: bool = True) -> Found:
    """What lies in a file of a format beside its pixels; `whole` says whether to look behind them, too.

    Damage is no error here: pixels may be whole where metadata is not. It has a note.
    """
    try:
        if format == "jpeg":
            return _collect_jpeg(file, whole=whole)
        if format == "png":
            return png.collect(file, whole=whole)
        if format in _WALKERS:
            return _WALKERS[format](file)
    except (struct.error, IndexError, ValueError, KeyError, OverflowError):
        return Found(notes=["the metadata is damaged and is not kept"])
    return Found()


_WALKERS = {"tiff": tiff.collect, "webp": webp.collect, "avif": bmff.collect, "gif": gif.collect, "bmp": bmp.collect}


def _collect_jpeg(file: BinaryIO, *, whole: bool) -> Found:
    if isinstance(file, io.BytesIO):
        return jpeg.collect(file.getvalue(), whole=whole)
    if file.seek(0, 2) > _IN_MEMORY:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return jpeg.collect(mapped, whole=whole)
    file.seek(0)
    return jpeg.collect(file.read(), whole=whole)


def dress(encoded: bytes, photo: Photo) -> bytes:
    """Put the metadata and the profile of a planned photo into what an encoder made of its pixels."""
    metadata, profile = photo.metadata, photo.icc_profile
    if photo.format == "jpeg":
        return jpeg.dress(encoded, metadata, profile)
    if photo.format == "png":
        return png.dressed(encoded, metadata, profile)
    if photo.format == "tiff":
        return tiff.dressed(encoded, metadata, profile, unspecified=photo.extra_channel is not None)
    if photo.format == "webp":
        return webp.dressed(encoded, metadata, profile, (photo.width, photo.height), has_alpha=photo.alpha is not None)
    return bmff.dressed(encoded, metadata)
