"""Converts photos to what a format can store, before encoding, so that every loss can be reported."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError, UnsupportedImageError
from kbnet.imaging import dng
from kbnet.imaging.blocks import NAMES, fit, fits_jpeg, profile_of
from kbnet.imaging.icc import displayed, icc_channels
from kbnet.imaging.photo import DNG, FORMATS, Metadata, Photo, Pixels, writes_heic
from kbnet.imaging.settling import extra_note, without_tail

_ALIASES = {"jpg": "jpeg", "jpe": "jpeg", "jfif": "jpeg", "tif": "tiff"}
# Longest side that each format or its encoder accepts.
_LONGEST = {"jpeg": 65500, "webp": 16383, "avif": 16384, "heic": 16384}
_EIGHT_BIT = ("jpeg", "webp")
_COLOUR_ONLY = ("webp", "avif")
_TWELVE_BIT = ("avif", "heic")


def format_of(name: str) -> str:
    """Return the canonical name of a format, including "dng", for a name or suffix such as "jpg" or ".TIF".

    Raises:
        UnsupportedImageError: a format that can't be written.
    """
    key = name.lower().removeprefix(".")
    key = _ALIASES.get(key, key)
    if key not in (*FORMATS, DNG):
        raise UnsupportedImageError(f"expected one of the output formats {', '.join(FORMATS)}, got {name!r}")
    return key


def plan_output(photo: Photo, format: str, *, bit_depth: int | None = None) -> tuple[Photo, tuple[str, ...]]:
    """Convert a photo to what `format` can store.

    AVIF and HEIC store 16-bit samples with 12 bits (10 if the source had 10). JPEG has no alpha: the image is
    composited over white. WebP and AVIF have no gray: it is stored as RGB. Only TIFF stores floats, and only TIFF and
    PNG scene-linear samples: other formats get them encoded with the sRGB curve, and clipped. "dng" is for developed
    camera raw files: the format becomes "tiff", with `linear_dng`. Planning an already planned photo again changes
    nothing.

    Args:
        photo: the photo to convert.
        format: name or alias of the output format.
        bit_depth: 8 or 16; None for the photo's.

    Returns:
        The converted photo, and one line for each thing that is lost.

    Raises:
        InvalidInputError: another `bit_depth`.
        UnsupportedImageError: the format can't be written, or can't store an image of this size.
        MissingExtraError: the format's encoder is not installed.
    """
    format = format_of(format)
    if format == "heic" and not writes_heic():
        raise MissingExtraError("pillow-heif", "heic")
    if bit_depth not in (None, 8, 16):
        raise InvalidInputError(f"expected a bit depth of 8 or 16, got {bit_depth}")
    is_dng = format == DNG or (format == "tiff" and photo.linear_dng)
    if is_dng:
        dng.check(photo, bit_depth)
        format = "tiff"
    name, longest = NAMES[format], _LONGEST.get(format)
    if longest is not None and max(photo.width, photo.height) > longest:
        raise UnsupportedImageError(
            f"{name} supports at most {longest} pixels per side, the image is {photo.width} x {photo.height}; "
            "use PNG or TIFF"
        )
    photo, notes = _displayed(replace(photo, format=format, linear_dng=is_dng), bit_depth)
    if photo.alpha is not None and format == "jpeg":
        if photo.alpha.min() < white_of(photo.alpha.dtype):
            notes.append("JPEG has no transparency: composited over white")
        photo = replace(photo, pixels=over_white(photo.pixels, photo.alpha), alpha=None)
    if photo.extra_channel is not None and format != "tiff":
        notes.append(f"the extra channel is not kept in {name}; TIFF keeps it")
        photo = replace(photo, extra_channel=None)
    if photo.tail is not None and format != "jpeg":
        metadata, dropped = without_tail(photo.metadata)
        notes += [*map(extra_note, photo.tail.names), *dropped]
        photo = replace(photo, tail=None, metadata=metadata)
    wanted = bit_depth or min(photo.bit_depth, 16)
    if wanted == 16 and format in _EIGHT_BIT:
        notes.append(f"{name} is limited to 8 bits per sample: rounded from 16")
        wanted = 8
    if photo.pixels.dtype != np.float32 and wanted != photo.bit_depth:
        photo = _at_depth(photo, wanted)
    if wanted == 16 and format in _TWELVE_BIT and photo.sample_bits not in (10, 12):
        notes.append(f"{name} is limited to 12 bits per sample: rounded from 16")
        photo = replace(photo, sample_bits=12)
    if photo.is_gray and format in _COLOUR_ONLY:
        photo = replace(photo, pixels=np.repeat(photo.pixels[:, :, None], 3, axis=2))
    metadata, profile, lost = fit_beside(
        photo.metadata, photo.icc_profile, format, bit_depth=photo.bit_depth, gray=photo.is_gray
    )
    return replace(photo, metadata=metadata, icc_profile=profile), (*notes, *lost)


def to_depth(samples: Pixels, bit_depth: int) -> Pixels:
    """Convert samples of any shape to 8 or 16 bits over the full range: white stays white. Rounds; clips floats."""
    if samples.dtype == np.float32:
        top = 255 if bit_depth == 8 else 65535
        # row by row, since doubles of the whole image would take several times its memory
        depth: Any = np.uint8 if bit_depth == 8 else np.uint16
        result: Pixels = np.empty(samples.shape, depth)
        for index, row in enumerate(samples):
            result[index] = np.rint(np.clip(row.astype(np.float64), 0, 1) * top)
        return result
    if samples.dtype == np.uint8 and bit_depth == 16:
        wide: Pixels = samples.astype(np.uint16) * np.uint16(257)
        return wide
    if samples.dtype == np.uint16 and bit_depth == 8:
        table: NDArray[np.uint8] = ((np.arange(65536, dtype=np.uint32) + 128) // 257).astype(np.uint8)
        narrow: Pixels = table[samples]
        return narrow
    return samples


def white_of(dtype: np.dtype[Any]) -> float:
    """Return the sample value of white: 255, 65535, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def _displayed(photo: Photo, bit_depth: int | None) -> tuple[Photo, list[str]]:
    """Convert float pixels to integers if the format can't store them, and their profile with them."""
    if photo.pixels.dtype != np.float32:
        return photo, []
    formats = ("tiff",) if photo.sample_bits > 16 else ("tiff", "png")
    if photo.format in formats and bit_depth is None:
        return photo, []
    notes = []
    if photo.pixels.min() < 0 or photo.pixels.max() > 1:
        notes.append("values below black or above white are clipped; TIFF keeps them")
    profile = photo.icc_profile
    if photo.linear:
        notes.append("scene-linear values are stored with the sRGB curve")
        if profile is not None and (profile := displayed(profile)) is None:
            notes.append("the colour profile is not kept, since it describes linear values; colours are approximate")
    photo = _at_depth(photo, 8 if bit_depth == 8 or photo.format in _EIGHT_BIT else 16)
    return replace(photo, icc_profile=profile, linear=False), notes


def over_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Composite pixels [H,W] or [H,W,3] with alpha [H,W] over white. Rounds; returns the same dtype."""
    if pixels.dtype == np.float32:
        return np.asarray(1 - (1 - pixels) * (alpha if pixels.ndim == 2 else alpha[:, :, None]), np.float32)
    top = int(white_of(pixels.dtype))
    cover = alpha if pixels.ndim == 2 else alpha[:, :, None]
    # white - (white - pixel) * alpha, in one pass of integers: 65535 * 65535 still fits in 32 bits
    dark = (top - pixels).astype(np.uint32) * cover
    result: Pixels = (top - (dark + top // 2) // top).astype(pixels.dtype)
    return result


def _at_depth(photo: Photo, bit_depth: int) -> Photo:
    alpha = None if photo.alpha is None else to_depth(photo.alpha, bit_depth)
    extra = None if photo.extra_channel is None else to_depth(photo.extra_channel, bit_depth)
    pixels = to_depth(photo.pixels, bit_depth)
    return replace(photo, pixels=pixels, alpha=alpha, extra_channel=extra, sample_bits=bit_depth)


def fit_beside(
    metadata: Metadata, profile: bytes | None, format: str, *, bit_depth: int, gray: bool
) -> tuple[Metadata, bytes | None, tuple[str, ...]]:
    """Convert metadata and profile to what a format can store with such pixels.

    Returns:
        The metadata, the profile, and one line for each thing that is lost.
    """
    notes: list[str] = []
    channels = 1 if gray else 3
    if profile is not None and icc_channels(profile) != channels:
        notes.append("the colour profile does not match the image's channels and is not kept")
        profile = None
    tags = {block.name for block in metadata.all("colour")}
    if profile is None and tags and (format != "png" or "nclx" in tags):
        profile, lost = profile_of(metadata, channels, format)
        notes += lost
    if profile is not None and format == "jpeg" and not fits_jpeg(profile):
        notes.append("the colour profile is too long for JPEG and is not kept")
        profile = None
    metadata, lost = fit(metadata, format, bit_depth=bit_depth, gray=gray)
    return metadata, profile, (*notes, *lost)
