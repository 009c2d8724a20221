"""How a JPEG was encoded (tables, subsampling, progressive or not), and encoding pixels in the same way with Pillow.

libvips can't be given tables of quantization.
"""

import io
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from kbnet.imaging.photo import Pixels

_TABLE = 64


@dataclass(frozen=True)
class JpegCoding:
    """Attributes:
    tables: quantization tables in natural order, the first for luma, 1 to 4 of them.
    subsampling: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0.
    progressive: whether it was written in several scans.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int = 0
    progressive: bool = False


def coding_of(file: BinaryIO) -> JpegCoding | None:
    """Return how an open JPEG was encoded; None if that can't be repeated, as with unusual sampling or CMYK."""
    from PIL import Image, JpegImagePlugin

    file.seek(0)
    try:
        with Image.open(file, formats=["JPEG"]) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
            subsampling = 0 if image.mode == "L" else JpegImagePlugin.get_sampling(image)
            progressive = bool(image.info.get("progressive"))
            usable = image.mode in ("L", "RGB") and subsampling >= 0
    except Exception:  # Pillow raises many kinds for damaged files, which libvips may still read
        return None
    if not usable or not tables or any(len(t) != _TABLE or not all(0 < v < 256 for v in t) for t in tables):
        return None
    return JpegCoding(tables, subsampling, progressive)


def encode(pixels: Pixels, coding: JpegCoding) -> bytes:
    """Encode 8-bit pixels [H,W] or [H,W,3] as a JPEG with these tables, without metadata.

    Raises:
        OSError, ValueError: the encoder failed.
    """
    from PIL import Image

    target = io.BytesIO()
    tables: Any = [list(table) for table in coding.tables]
    options: dict[str, Any] = {} if pixels.ndim == 2 else {"subsampling": coding.subsampling}
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(target, "JPEG", qtables=tables, optimize=True, progressive=coding.progressive, **options)
    return target.getvalue()
