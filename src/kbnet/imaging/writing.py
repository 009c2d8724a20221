"""Encoding: from photos to files or bytes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kbnet import files
from kbnet.errors import InvalidInputError, OutputError
from kbnet.imaging import coding, dng, heif
from kbnet.imaging._vips import FAILURES, pyvips, reason
from kbnet.imaging.coding import JpegCoding
from kbnet.imaging.containers import dress
from kbnet.imaging.extras import check_extras, lost_extras
from kbnet.imaging.linear import decode
from kbnet.imaging.photo import Photo, Pixels, format_named, printable
from kbnet.imaging.planning import _at_depth, format_of, plan_output

log = logging.getLogger(__name__)

_DEFAULT_QUALITY = {"jpeg": 95, "webp": 95, "avif": 90, "heic": 95}


def write_photo(
    photo: Photo,
    target: Path | str | None,
    *,
    format: str | None = None,
    quality: int | None = None,
    bit_depth: int | None = None,
    overwrite: bool = False,
    times: files.Times | None = None,
    drop_extras: bool = False,
    same_quality: bool = False,
) -> bytes | None:
    """Encode the photo and write it to `target` atomically, or return the encoded bytes if `target` is None.

    What the format can't store is reduced as described in `plan_output`, and each loss is logged at INFO. To show
    losses to a user, call `plan_output` first. JPEG and AVIF are written without chroma subsampling.

    Args:
        photo: the photo to write.
        target: path of the file. A symbolic link is replaced, not followed.
        format: one of `FORMATS`, an alias such as "jpg", or "dng" for a developed camera raw file. Defaults to the
            format of `target`'s suffix, or else the photo's format.
        quality: 1 to 100; defaults to 95, for AVIF 90. Ignored for PNG and TIFF, which are always lossless. Without it,
            WebP is lossless if the photo's source was.
        bit_depth: 8 or 16; defaults to the photo's.
        overwrite: whether to replace an existing file, whose permissions are then kept.
        times: access and modification times to set; None means the current time.
        drop_extras: whether the file that the photo was read from may be overwritten even if that loses some of the
            photo's `extras`, such as a second image.
        same_quality: whether a JPEG gets the quantization tables and the subsampling of the photo's own JPEG file.

    Raises:
        OutputExistsError: `target` exists, or appeared while encoding, and `overwrite` is False.
        OutputError: the folder doesn't exist, permission is denied, the disk is full, or extras would be lost.
        UnsupportedImageError: the format can't be written, or can't store an image of this size.
        InvalidInputError: `quality` or `bit_depth` is out of range, or `format` contradicts the suffix of `target`.
    """
    path = None if target is None else Path(target)
    chosen = _choose_format(photo, path, format)
    if path is not None:
        files.check(path, overwrite=overwrite)
        check_extras(lost_extras(photo, chosen), photo.source, path, drop_extras=drop_extras)
    planned, notes = plan_output(photo, chosen, bit_depth=bit_depth)
    for note in notes:
        log.info("%s: %s", "output" if path is None else printable(path), note)
    data = encode(planned, quality=quality, same_quality=same_quality)
    if path is None:
        return data
    publish(data, path, overwrite=overwrite, times=times)
    return None


def encode(photo: Photo, *, quality: int | None = None, same_quality: bool = False) -> bytes:
    """Encode a photo that `plan_output` returned, in the photo's own format, and return the bytes.

    Raises:
        InvalidInputError: `quality` is outside 1 to 100.
        OutputError: the encoder failed.
    """
    # Encoding goes to memory, not to the file: a full disk is then an OSError with its reason, where libvips would only
    # report a failed encoder. The encoded file is small compared with the decoded image.
    if quality is not None and not 1 <= quality <= 100:
        raise InvalidInputError(f"expected a quality from 1 to 100, got {quality}")
    photo = _stored(photo)
    if photo.linear_dng:
        photo = replace(photo, pixels=dng.samples(photo.pixels))
    try:
        if photo.format == "heic":
            encoded = _encode_heic(photo, quality)
        elif photo.format == "jpeg" and same_quality and photo.coding is not None:
            encoded = _encode_alike(photo, photo.coding)
        else:
            encoded = _encode(_to_vips(photo), photo, quality)
    except FAILURES as error:
        raise OutputError(
            f"the {photo.format} encoder failed ({reason(error) or 'no reason given'}); try another format such as png"
        ) from None
    return dress(encoded, photo)


def _stored(photo: Photo) -> Photo:
    """Return float pixels as the file stores them: linear ones decoded, and 16-bit ones as integers."""
    if photo.pixels.dtype != np.float32:
        return photo
    if photo.linear:
        photo = replace(photo, pixels=decode(photo.pixels.astype(np.float32, copy=False)), linear=False)
    return photo if photo.sample_bits > 16 else _at_depth(photo, 16)


def _encode_heic(photo: Photo, quality: int | None) -> bytes:
    array = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
    bits = 8 if photo.bit_depth == 8 else _deep_bits(photo)
    try:
        return heif.encode(array, bits, photo.icc_profile, quality or _DEFAULT_QUALITY["heic"])
    except (RuntimeError, ValueError, OSError) as error:
        raise OutputError(f"the heic encoder failed ({error}); try another format such as png") from None


def _encode_alike(photo: Photo, how: JpegCoding) -> bytes:
    try:
        return coding.encode(photo.pixels, how)
    except (OSError, ValueError) as error:
        raise OutputError(f"the jpeg encoder failed ({error}); leave out --same-quality") from None


def _encode(image: Any, photo: Photo, quality: int | None) -> bytes:
    """Encode only the pixels. Metadata and profiles are added afterwards, except for the profile of AVIF."""
    q = quality or _DEFAULT_QUALITY.get(photo.format, 95)
    if photo.format == "png":
        # Twice as fast as libvips' default, for 4 percent more bytes on photos.
        return bytes(image.pngsave_buffer(bitdepth=photo.bit_depth, filter="paeth", compression=3, keep="none"))
    if photo.format == "jpeg":
        return bytes(image.jpegsave_buffer(Q=q, subsample_mode="off", optimize_coding=True, keep="none"))
    if photo.format == "tiff":
        # classic TIFF is limited to 4 GB, and deflate can make noise slightly larger
        big = photo.pixels.nbytes > 3 << 30
        predictor = "float" if photo.bit_depth == 32 else "horizontal"
        if photo.linear_dng:  # raw editors expect deflate for floats only
            return bytes(image.tiffsave_buffer(compression="none", bigtiff=big, keep="none"))
        return bytes(image.tiffsave_buffer(compression="deflate", predictor=predictor, bigtiff=big, keep="none"))
    if photo.format == "webp":
        if photo.lossless and quality is None:
            return bytes(image.webpsave_buffer(lossless=True, exact=True, keep="none"))
        return bytes(image.webpsave_buffer(Q=q, smart_subsample=True, exact=True, keep="none"))
    bits = 8 if photo.bit_depth == 8 else _deep_bits(photo)
    # effort 2 of 9: higher values make libaom ten times slower and save nothing at this quality
    options: dict[str, Any] = {"compression": "av1", "subsample_mode": "off", "effort": 2}
    return bytes(image.heifsave_buffer(Q=q, bitdepth=bits, keep="icc", **options))


def _choose_format(photo: Photo, path: Path | None, format: str | None) -> str:
    named = None if path is None else format_named(path)
    if format is not None:
        chosen = format_of(format)
        if named not in (None, chosen) and path is not None:
            raise InvalidInputError(
                f"{printable(path)}: the file name says {named}, but the format is {chosen}; change one of them"
            )
        return chosen
    if path is not None and path.suffix and named is None:
        return format_of(path.suffix)
    return named or photo.format


def _to_vips(photo: Photo) -> Any:
    pixels, alpha = photo.pixels, photo.alpha if photo.extra_channel is None else photo.extra_channel
    if photo.format == "avif" and photo.bit_depth == 16:
        bits = _deep_bits(photo)
        pixels, alpha = _shifted(pixels, bits), None if alpha is None else _shifted(alpha, bits)
    array = pixels if alpha is None else np.dstack([pixels, alpha])
    bands = 1 if array.ndim == 2 else array.shape[2]
    kind = {8: "uchar", 16: "ushort", 32: "float"}[photo.bit_depth]
    wide = photo.bit_depth > 8
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(array).data, photo.width, photo.height, bands, kind)
    space = ("grey16" if wide else "b-w") if photo.is_gray else ("rgb16" if wide else "srgb")
    image = image.copy(interpretation=space)
    if photo.icc_profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", photo.icc_profile)
    return image


def _deep_bits(photo: Photo) -> int:
    return 10 if photo.sample_bits == 10 else 12


def _shifted(samples: Pixels, bits: int) -> Pixels:
    """Round 16-bit samples to `bits` and shift them into the high bits, where libvips expects them."""
    top = (1 << bits) - 1
    table = ((np.arange(65536, dtype=np.uint32) * top + 32767) // 65535) << (16 - bits)
    result: Pixels = table.astype(np.uint16)[samples]
    return result


def publish(data: bytes, path: Path, *, overwrite: bool = False, times: files.Times | None = None) -> None:
    """Write the bytes of a file to `path` atomically. See `kbnet.files.writing`.

    Raises:
        OutputExistsError: `path` exists and `overwrite` is False.
        OutputError: the folder doesn't exist, permission is denied, or the disk is full.
    """
    files.write(data, path, overwrite=overwrite, times=times)
