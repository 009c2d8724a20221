"""Image files as containers: reads the metadata of a file, and inserts metadata into encoded pixels.

    file --collect--> Found        bytes of an encoder, Photo --dress--> bytes of a file

libvips decodes and encodes only the pixels, because its writers drop unknown EXIF tags and invent resolutions.
"""

import io
import mmap
from typing import BinaryIO

from kbnet.imaging.containers import bmff, bmp, gif, jpeg, png, tiff, webp
from kbnet.imaging.containers.found import MALFORMED, RAW_DATA, Found
from kbnet.imaging.photo import Photo

_IN_MEMORY = 1 << 30  # largest JPEG in bytes that is read into memory; larger ones are mapped


def collect(file: BinaryIO, format: str, *, whole: bool = True) -> Found:
    """Collect the metadata of a file. `whole` tells whether to also look behind the pixels.

    Damage is reported as a note, not as an error: the pixels may be intact where the metadata isn't.
    """
    try:
        if format == "jpeg":
            return _collect_jpeg(file, whole=whole)
        if format == "png":
            return png.collect(file, whole=whole)
        if format in _WALKERS:
            return _WALKERS[format](file)
    except MALFORMED:
        extras = [RAW_DATA] if format == "raw" else []
        return Found(notes=["the metadata is damaged and is not kept"], extras=extras)
    return Found()


_WALKERS = {
    "tiff": tiff.collect,
    "raw": tiff.collect_raw,
    "webp": webp.collect,
    "avif": bmff.collect,
    "heic": bmff.collect,
    "gif": gif.collect,
    "bmp": bmp.collect,
}


def _collect_jpeg(file: BinaryIO, *, whole: bool) -> Found:
    if isinstance(file, io.BytesIO):
        return jpeg.collect(file.getvalue(), whole=whole)
    if file.seek(0, 2) > _IN_MEMORY:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return jpeg.collect(mapped, whole=whole)
    file.seek(0)
    return jpeg.collect(file.read(), whole=whole)


def dress(encoded: bytes, photo: Photo) -> bytes:
    """Insert the metadata and the profile of a planned photo into its encoded pixels."""
    metadata, profile = photo.metadata, photo.icc_profile
    if photo.format == "jpeg":
        return jpeg.dress(encoded, metadata, profile, photo.tail)
    if photo.format == "png":
        return png.dressed(encoded, metadata, profile)
    if photo.format == "tiff":
        return tiff.dressed(
            encoded, metadata, profile, unspecified=photo.extra_channel is not None, linear_dng=photo.linear_dng
        )
    if photo.format == "webp":
        return webp.dressed(encoded, metadata, profile, (photo.width, photo.height), has_alpha=photo.alpha is not None)
    return bmff.dressed(encoded, metadata)
