"""HEIC pixels: decoded with libheif and libde265 (pi-heif), encoded with x265 (pillow-heif, an extra).

Everything else about these files, such as size, colour and metadata, is read in `containers`, without a decoder.
"""

import io
import struct
from typing import Any

import numpy as np

from kbnet.errors import ImageError, MissingExtraError
from kbnet.imaging._vips import pyvips
from kbnet.imaging.containers.heif import Facts, describe
from kbnet.imaging.photo import Pixels
from kbnet.imaging.sniff import damaged

_FAILURES = (ValueError, EOFError, SyntaxError, RuntimeError, OSError, MemoryError)


def facts_of(data: bytes, name: str) -> Facts:
    """Return the facts about the main image of a HEIC file.

    Raises:
        UnreadableImageError: the file is damaged.
    """
    try:
        facts = describe(data)
    except (struct.error, IndexError, ValueError):
        facts = None
    if facts is None:
        raise damaged(name, "heic", "no main image")
    return facts


def header(data: bytes, name: str) -> Any:
    """Return a libvips image with the size, depth and profile of a HEIC file; `decode` returns its pixels.

    Raises:
        UnreadableImageError: the file is damaged.
    """
    facts = facts_of(data, name)
    wide = facts.bits > 8
    space = {(1, False): "b-w", (1, True): "grey16", (3, False): "srgb", (3, True): "rgb16"}[facts.channels, wide]
    image = pyvips.Image.black(facts.width, facts.height, bands=facts.channels + facts.has_alpha)
    image = image.cast("ushort" if wide else "uchar").copy(interpretation=space)
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", facts.bits)
    if facts.profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", facts.profile)
    return image


def decode(data: bytes, name: str) -> Pixels:
    """Decode the main image of a HEIC file, upright: [H,W,C] uint8, or uint16 over the full range for 10 and 12 bits.

    Raises:
        UnreadableImageError: the file is damaged, or the decoder doesn't support it.
    """
    import pi_heif

    facts = facts_of(data, name)
    try:
        file = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        image = file[file.primary_index]
        samples, mode = bytes(image.data), image.mode  # a copy: its memory belongs to the decoder
        if image.size != (facts.width, facts.height):
            raise damaged(name, "heic", "contradicting sizes")
    except ImageError:
        raise
    except _FAILURES as error:
        raise damaged(name, "heic", _line(error)) from None
    bits = int(mode.partition(";")[2] or 8)
    if not samples or len(samples) % (facts.width * facts.height * (1 if bits == 8 else 2)):
        raise damaged(name, "heic", "contradicting sizes")
    array: Any = np.frombuffer(samples, np.uint8 if bits == 8 else "<u2").reshape(facts.height, facts.width, -1)
    if bits > 8:
        top = (1 << bits) - 1
        table = ((np.arange(top + 1, dtype=np.uint32) * 65535 + top // 2) // top).astype(np.uint16)
        array = table[np.minimum(array, top)]
    if mode.partition(";")[0][-1] == "a":
        array = _unpremultiplied(array)
    wanted = facts.channels + facts.has_alpha
    if array.shape[2] != wanted:
        colours = array[:, :, :3] if array.shape[2] >= 3 else array[:, :, :1].repeat(3, axis=2)
        alpha = (
            array[:, :, -1:] if array.shape[2] in (2, 4) else np.full_like(array[:, :, :1], np.iinfo(array.dtype).max)
        )
        array = np.concatenate([colours[:, :, : facts.channels], alpha], axis=2)[:, :, :wanted]
    return np.ascontiguousarray(array)


def _unpremultiplied(array: Pixels) -> Pixels:
    alpha = np.maximum(array[:, :, -1:].astype(np.uint32), 1)
    top = 255 if array.dtype == np.uint8 else 65535
    result = array.copy()
    result[:, :, :-1] = np.minimum((array[:, :, :-1].astype(np.uint64) * top + alpha // 2) // alpha, top)
    return result


def encode(array: Pixels, bits: int, profile: bytes | None, quality: int) -> bytes:
    """Encode pixels as HEIC, without chroma subsampling.

    Args:
        array: [H,W] or [H,W,2 to 4], uint8, or uint16 over the full range.
        bits: 8, 10 or 12; 8 for uint8.
        profile: ICC profile, or None for sRGB.
        quality: 1 to 100.

    Raises:
        MissingExtraError: pillow-heif is not installed.
        RuntimeError, ValueError, OSError: the encoder failed.
    """
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise MissingExtraError("pillow-heif", "heic") from None
    if bits > 8:
        top = (1 << bits) - 1
        table = ((np.arange(65536, dtype=np.uint32) * top + 32767) // 65535).astype(np.uint16)
        array = table[array]
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[1 if array.ndim == 2 else array.shape[2]]
    mode = mode if bits == 8 else f"{mode};{bits}"
    options: dict[str, Any] = {"icc_profile": profile} if profile else {}
    target = io.BytesIO()
    height, width = array.shape[:2]
    pillow_heif.encode(
        mode, (width, height), array.tobytes(), target, quality=quality, chroma=444, bit_depth=bits, **options
    )
    return target.getvalue()


def _line(error: Exception) -> str:
    return "".join(c if c.isprintable() else " " for c in str(error))[:120].strip()
