"""What a photo becomes in a given format: decided before encoding, so that every loss can be told."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, UnsupportedImageError
from kbnet.imaging.metadata import icc_channels
from kbnet.imaging.photo import FORMATS, Photo, Pixels

_NAMES = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "webp": "WebP", "avif": "AVIF"}
_ALIASES = {"jpg": "jpeg", "tif": "tiff"}
# Longest side each format, or its encoder, takes.
_LONGEST = {"jpeg": 65500, "webp": 16383, "avif": 16384}
_EIGHT_BIT = ("jpeg", "webp")
_COLOUR_ONLY = ("webp", "avif")
# A JPEG segment holds 65533 bytes, less the name at its start; libvips drops longer ones in silence.
_JPEG_SEGMENT = 65000


def format_of(name: str) -> str:
    """The format's own name for a name or file ending a user may give, such as "jpg" or ".TIF".

    Raises UnsupportedImageError for a format that is not written here.
    """
    key = name.lower().removeprefix(".")
    key = _ALIASES.get(key, key)
    if key not in FORMATS:
        raise UnsupportedImageError(f"expected an output format among {', '.join(FORMATS)}, got {name!r}; choose one")
    return key


def plan_output(photo: Photo, format: str, *, bit_depth: int | None = None) -> tuple[Photo, tuple[str, ...]]:
    """The photo as `format` can hold it, and one line for each thing that is lost on the way.

    `bit_depth` is 8 or 16, None for the photo's own. AVIF holds 16-bit samples in 12 bits (10 where the file had 10).
    JPEG has no alpha: the picture is laid over white. WebP and AVIF have no gray: it is stored as RGB. Planning an
    already planned photo again changes nothing and has nothing to say.

    Raises InvalidInputError (another `bit_depth`), UnsupportedImageError (another format, or a side too long for it).
    """
    format = format_of(format)
    if bit_depth not in (None, 8, 16):
        raise InvalidInputError(f"expected a bit depth of 8 or 16, got {bit_depth}")
    name, longest = _NAMES[format], _LONGEST.get(format)
    if longest is not None and max(photo.width, photo.height) > longest:
        raise UnsupportedImageError(
            f"{name} holds at most {longest} pixels a side, the picture is {photo.width} x {photo.height}; "
            "write PNG or TIFF"
        )
    photo, notes = replace(photo, format=format), []
    if photo.alpha is not None and format == "jpeg":
        if int(photo.alpha.min()) < np.iinfo(photo.alpha.dtype).max:
            notes.append("JPEG has no transparency: laid over white")
        photo = replace(photo, pixels=over_white(photo.pixels, photo.alpha), alpha=None)
    wanted = bit_depth or photo.bit_depth
    if wanted == 16 and format in _EIGHT_BIT:
        notes.append(f"{name} holds 8-bit samples: 16-bit rounded to 8")
        wanted = 8
    if wanted != photo.bit_depth:
        photo = _at_depth(photo, wanted)
    if wanted == 16 and format == "avif" and photo.sample_bits not in (10, 12):
        notes.append("AVIF holds at most 12-bit samples: 16-bit rounded to 12")
        photo = replace(photo, sample_bits=12)
    if photo.is_gray and format in _COLOUR_ONLY:
        photo = replace(photo, pixels=np.repeat(photo.pixels[:, :, None], 3, axis=2))
    photo, lost = _fit_metadata(photo, name)
    return photo, (*notes, *lost)


def to_depth(samples: Pixels, bit_depth: int) -> Pixels:
    """Samples of any shape at 8 or 16 bits over the whole range: white stays white. 16 to 8 rounds to the nearest."""
    if samples.dtype == np.uint8 and bit_depth == 16:
        return samples.astype(np.uint16) * np.uint16(257)
    if samples.dtype == np.uint16 and bit_depth == 8:
        table: NDArray[np.uint8] = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
        return table[samples]
    return samples


def over_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Pixels [H,W] or [H,W,3] under alpha [H,W] laid over white, rounded; same dtype."""
    top = int(np.iinfo(pixels.dtype).max)
    cover = alpha if pixels.ndim == 2 else alpha[:, :, None]
    # white - (white - pixel) * alpha, in one pass without floats: 65535 * 65535 still fits in 32 bits
    dark = (top - pixels).astype(np.uint32) * cover
    result: Pixels = (top - (dark + top // 2) // top).astype(pixels.dtype)
    return result


def _at_depth(photo: Photo, bit_depth: int) -> Photo:
    alpha = None if photo.alpha is None else to_depth(photo.alpha, bit_depth)
    return replace(photo, pixels=to_depth(photo.pixels, bit_depth), alpha=alpha, sample_bits=bit_depth)


def _fit_metadata(photo: Photo, name: str) -> tuple[Photo, tuple[str, ...]]:
    notes, profile, metadata = [], photo.icc_profile, photo.metadata
    if profile is not None and icc_channels(profile) != (1 if photo.is_gray else 3):
        notes.append("the colour profile does not fit the picture's channels and is not kept")
        profile = None
    if metadata.exif is not None and photo.format == "tiff":
        notes.append("EXIF is not kept in TIFF")
        metadata = replace(metadata, exif=None)
    if metadata.exif is not None and photo.format == "jpeg" and len(metadata.exif) > _JPEG_SEGMENT:
        notes.append("the EXIF block is too long for JPEG and is not kept")
        metadata = replace(metadata, exif=None)
    if metadata.xmp is not None and photo.format == "jpeg" and len(metadata.xmp) > _JPEG_SEGMENT:
        notes.append("the XMP block is too long for JPEG and is not kept")
        metadata = replace(metadata, xmp=None)
    if metadata.iptc is not None and photo.format != "jpeg":
        notes.append(f"the IPTC caption block is not kept in {name}")
        metadata = replace(metadata, iptc=None)
    return replace(photo, icc_profile=profile, metadata=metadata), tuple(notes)
