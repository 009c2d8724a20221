"""Photos into files and bytes."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from kbnet import files
from kbnet.errors import InvalidInputError, OutputError
from kbnet.imaging._vips import FAILURES, pyvips, reason
from kbnet.imaging.containers import dress
from kbnet.imaging.extras import check_extras
from kbnet.imaging.photo import SUFFIX_FORMATS, Photo, Pixels, printable
from kbnet.imaging.planning import format_of, plan_output

log = logging.getLogger(__name__)

_DEFAULT_QUALITY = {"jpeg": 95, "webp": 95, "avif": 90}


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
) -> bytes | None:
    """Encode the photo and put it at `target` in one step, or return the bytes where `target` is None.

    `format` is by default the one `target` is named as, else the photo's own. `quality` is 1 to 100, by default 95
    (AVIF 90); PNG and TIFF are always lossless and take no notice of it, and WebP is lossless by default where the
    photo's source was. JPEG and AVIF keep full chroma. `bit_depth` is 8 or 16, by default the photo's. What the format
    cannot hold is reduced as `plan_output` says, each loss logged at INFO; call that first to show them.

    The file appears whole or not at all, with the permissions of a new file (those of the file it replaces, when
    overwriting), and with the present time or with `times`; an interrupted write leaves nothing behind. A symbolic link
    is replaced, not followed.

    The file that the photo was read from is not overwritten where that would lose one of the photo's `extras`, such as
    the video of a motion photo, unless `drop_extras` is given.

    Raises OutputExistsError (there is a file and `overwrite` is False, even one that appeared meanwhile), OutputError
    (no such folder, not allowed, disk full, extras would be lost), UnsupportedImageError (a format or size that cannot
    be written), InvalidInputError (`quality` or `bit_depth` out of range, or `format` against the name of `target`).
    """
    path = None if target is None else Path(target)
    chosen = _choose_format(photo, path, format)
    if path is not None:
        files.check(path, overwrite=overwrite)
        check_extras(photo.extras, photo.source, path, drop_extras=drop_extras)
    planned, notes = plan_output(photo, chosen, bit_depth=bit_depth)
    for note in notes:
        log.info("%s: %s", "output" if path is None else printable(path), note)
    data = encode(planned, quality=quality)
    if path is None:
        return data
    publish(data, path, overwrite=overwrite, times=times)
    return None


def encode(photo: Photo, *, quality: int | None = None) -> bytes:
    """The bytes of a file in the photo's own format; the photo is one that `plan_output` returned.

    Encoding goes to memory, not to the file: a full disk is then a plain OSError with its reason, where libvips would
    report an encoder that failed; the encoded file is small beside the decoded one.

    Raises InvalidInputError for a quality outside 1 to 100, OutputError where the encoder fails.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InvalidInputError(f"expected a quality from 1 to 100, got {quality}")
    try:
        encoded = _encode(_to_vips(photo), photo, quality)
    except FAILURES as error:
        raise OutputError(
            f"the {photo.format} encoder failed ({reason(error) or 'no reason given'}); try another format, such as png"
        ) from None
    return dress(encoded, photo)


def _encode(image: Any, photo: Photo, quality: int | None) -> bytes:
    """The pixels alone; all else is put in afterwards, but for the profile of AVIF."""
    q = quality or _DEFAULT_QUALITY.get(photo.format, 95)
    if photo.format == "png":
        # Half the time of libvips' own choice for 4 percent more bytes, on photographs.
        return bytes(image.pngsave_buffer(bitdepth=photo.bit_depth, filter="paeth", compression=3, keep="none"))
    if photo.format == "jpeg":
        return bytes(image.jpegsave_buffer(Q=q, subsample_mode="off", optimize_coding=True, keep="none"))
    if photo.format == "tiff":
        # classic TIFF ends at 4 GB; deflate can grow noise a little
        big = photo.pixels.nbytes > 3 << 30
        return bytes(image.tiffsave_buffer(compression="deflate", predictor="horizontal", bigtiff=big, keep="none"))
    if photo.format == "webp":
        if photo.lossless and quality is None:
            return bytes(image.webpsave_buffer(lossless=True, exact=True, keep="none"))
        return bytes(image.webpsave_buffer(Q=q, smart_subsample=True, exact=True, keep="none"))
    bits = 8 if photo.bit_depth == 8 else _avif_bits(photo)
    # effort 2 of 9: above it libaom takes ten times as long to save nothing at this quality
    options: dict[str, Any] = {"compression": "av1", "subsample_mode": "off", "effort": 2}
    return bytes(image.heifsave_buffer(Q=q, bitdepth=bits, keep="icc", **options))


def _choose_format(photo: Photo, path: Path | None, format: str | None) -> str:
    named = None if path is None else SUFFIX_FORMATS.get(path.suffix.lower())
    if format is not None:
        chosen = format_of(format)
        if named not in (None, chosen) and path is not None:
            raise InvalidInputError(
                f"{printable(path)}: the name says {named} but the format asked for is {chosen}; change one of them"
            )
        return chosen
    if path is not None and path.suffix and named is None:
        return format_of(path.suffix)
    return named or photo.format


def _to_vips(photo: Photo) -> Any:
    pixels, alpha = photo.pixels, photo.alpha if photo.extra_channel is None else photo.extra_channel
    if photo.format == "avif" and photo.bit_depth == 16:
        bits = _avif_bits(photo)
        pixels, alpha = _shifted(pixels, bits), None if alpha is None else _shifted(alpha, bits)
    array = pixels if alpha is None else np.dstack([pixels, alpha])
    bands = 1 if array.ndim == 2 else array.shape[2]
    wide = photo.bit_depth == 16
    image = pyvips.Image.new_from_memory(
        np.ascontiguousarray(array).data, photo.width, photo.height, bands, "ushort" if wide else "uchar"
    )
    space = ("grey16" if wide else "b-w") if photo.is_gray else ("rgb16" if wide else "srgb")
    image = image.copy(interpretation=space)
    if photo.icc_profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", photo.icc_profile)
    return image


def _avif_bits(photo: Photo) -> int:
    return 10 if photo.sample_bits == 10 else 12


def _shifted(samples: Pixels, bits: int) -> Pixels:
    """16-bit samples rounded to `bits` and put in the high bits, where libvips takes them from."""
    top = (1 << bits) - 1
    table = ((np.arange(65536, dtype=np.uint32) * top + 32767) // 65535) << (16 - bits)
    result: Pixels = table.astype(np.uint16)[samples]
    return result


def publish(data: bytes, path: Path, *, overwrite: bool = False, times: files.Times | None = None) -> None:
    """Put the bytes of a file at `path`, whole or not at all; see `kbnet.files.writing`.

    Raises OutputExistsError (there is a file and `overwrite` is False), OutputError (no such folder, not allowed, disk
    full).
    """
    files.write(data, path, overwrite=overwrite, times=times)
