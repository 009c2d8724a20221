"""JPEG artefacts: encodes and decodes pixels in memory."""

import numpy as np

from kbnet.errors import InvalidInputError, OutputError
from kbnet.imaging._vips import FAILURES, pyvips, reason
from kbnet.imaging.photo import Pixels, check_pixels


def compress_jpeg(pixels: Pixels, quality: int, *, subsample_chroma: bool = False) -> Pixels:
    """Encode pixels as JPEG and decode them again, with libjpeg as called by libvips.

    Args:
        pixels: uint8, [H,W] or [H,W,3].
        quality: 1 to 100.
        subsample_chroma: store colour at half the resolution (4:2:0), as most cameras and websites do.

    Returns:
        uint8 pixels of the same shape.

    Raises:
        InvalidInputError: wrong dtype or shape, or `quality` out of range.
        OutputError: the encoder failed, for example because a side is over 65,500 pixels.
    """
    check_pixels(pixels)
    if pixels.dtype != np.uint8:
        raise InvalidInputError(f"expected uint8 pixels for a JPEG, got {pixels.dtype}")
    if not 1 <= quality <= 100:
        raise InvalidInputError(f"expected a quality from 1 to 100, got {quality}")
    bands = 1 if pixels.ndim == 2 else 3
    height, width = pixels.shape[:2]
    try:
        image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, bands, "uchar")
        image = image.copy(interpretation="srgb" if bands == 3 else "b-w")
        data = image.jpegsave_buffer(Q=quality, subsample_mode="on" if subsample_chroma else "off", keep="none")
        decoded = pyvips.Image.jpegload_buffer(data).write_to_memory()
    except FAILURES as error:
        raise OutputError(f"the JPEG encoder failed ({reason(error) or 'no reason given'})") from None
    return np.frombuffer(decoded, np.uint8).reshape(pixels.shape)
