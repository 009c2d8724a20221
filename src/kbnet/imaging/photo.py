"""What a decoded picture is: pixels, what is kept beside them, and where it came from."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError
from kbnet.files import printable as printable

Pixels = NDArray[np.uint8 | np.uint16]

FORMATS = ("png", "jpeg", "tiff", "webp", "avif")
SUFFIX_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
    ".avif": "avif",
}
SUPPORTED_SUFFIXES = tuple(SUFFIX_FORMATS)
"""File name endings that are read and written, lower case, with the dot."""

READ_SUFFIXES = (".bmp", ".gif")
"""Endings of what is read alone; a result in kind is PNG."""


def is_supported(path: Path | str) -> bool:
    """Whether the file name ends as a picture that is read and written here; the file itself is not opened.

    >>> is_supported("holiday.JPG"), is_supported("holiday.gif")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIX_FORMATS


def is_readable(path: Path | str) -> bool:
    """Whether the file name ends as a picture that is read here, whether or not it is written.

    >>> is_readable("holiday.jfif"), is_readable("holiday.gif"), is_readable("holiday.psd")
    (True, True, False)
    """
    return is_supported(path) or Path(path).suffix.lower() in READ_SUFFIXES


@dataclass(frozen=True)
class Block:
    """A piece of metadata, as bytes that are not looked into more than needed.

    Attributes:
        kind: a name of the table in `kbnet.imaging.blocks`, which says what becomes of it in each format.
        data: what it holds, without the framing of the format that it is from.
        name: which one of its kind: a chunk of PNG or WebP, a marker of JPEG, a number of TIFF.
        code: of a TIFF tag the type of its values, whose bytes are in little-endian order.
    """

    kind: str
    data: bytes
    name: str = ""
    code: int = 0


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit, horizontal and vertical; `unit` is "inch", "cm", "metre", or "" for a ratio of sides alone."""

    x: Fraction
    y: Fraction
    unit: str = "inch"

    def per(self, unit: str) -> tuple[Fraction, Fraction]:
        """The same in another unit."""
        scale = _PER_METRE[unit] / _PER_METRE[self.unit]
        return self.x / scale, self.y / scale

    def __str__(self) -> str:
        if not self.unit:
            return f"pixels of {float(self.x):g} by {float(self.y):g}"
        return f"{float(self.per('inch')[0]):.4g} dpi"


_PER_METRE = {"inch": Fraction(10000, 254), "cm": Fraction(100), "metre": Fraction(1), "": Fraction(1)}


@dataclass(frozen=True)
class Metadata:
    """What travels beside the pixels and their colour profile.

    `blocks` are in the order of the file. An EXIF block starts at its TIFF header; its orientation is 1, for the pixels
    are upright, and it holds no thumbnail, which would show the picture before restoration. `resolution` is None where
    the file does not say, or says it in EXIF alone.
    """

    blocks: tuple[Block, ...] = ()
    resolution: Resolution | None = None

    def first(self, kind: str) -> bytes | None:
        """The data of the first block of a kind, or None."""
        return next((block.data for block in self.blocks if block.kind == kind), None)

    def all(self, kind: str) -> tuple[Block, ...]:
        """The blocks of a kind."""
        return tuple(block for block in self.blocks if block.kind == kind)


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded picture, upright, with all that is needed to write it back in kind.

    `pixels` is [H,W] (gray) or [H,W,3] (colour), uint8 or uint16 over its whole range, never with alpha.
    `alpha` is [H,W] of the same dtype, 0 for transparent, not premultiplied; it is carried and not restored.
    `sample_bits` is the bits a sample had in the file (1 to 16), which 10-bit AVIF needs to stay 10-bit.
    `lossless` says that the file's coding kept every sample, so that WebP can stay lossless.
    `extra_channel` is [H,W] of the same dtype: a channel beside the colours that the file does not call transparency,
    such as a scanner's infrared or a mask. It is carried and not restored, and TIFF alone holds it.
    `extras` names the pictures, videos and sounds in the file that no result holds, such as "the video of a motion
    photo": whoever replaces the file, which is `source` if it was read from one, loses them.
    `notes` holds one line for each thing that reading changed.

    To write other pixels with the same surroundings: `dataclasses.replace(photo, pixels=restored)`.

    Raises InvalidInputError when shapes or dtypes are not these, or the format is not one of FORMATS.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    format: str = "png"
    icc_profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    sample_bits: int = 0
    lossless: bool = True
    notes: tuple[str, ...] = ()
    extra_channel: Pixels | None = None
    extras: tuple[str, ...] = ()
    source: Path | None = None

    def __post_init__(self) -> None:
        check_pixels(self.pixels)
        shape = self.pixels.shape[:2]
        for name, plane in (("alpha", self.alpha), ("extra_channel", self.extra_channel)):
            if plane is not None and (plane.shape != shape or plane.dtype != self.pixels.dtype):
                raise InvalidInputError(
                    f"expected {name} of shape {shape} and dtype {self.pixels.dtype} like the pixels, "
                    f"got {plane.shape} and {plane.dtype}"
                )
        if self.alpha is not None and self.extra_channel is not None:
            raise InvalidInputError("expected alpha or one channel beside the colours, got both")
        if self.format not in FORMATS:
            raise InvalidInputError(f"expected a format among {', '.join(FORMATS)}, got {self.format!r}")
        if self.sample_bits == 0:
            object.__setattr__(self, "sample_bits", self.bit_depth)

    @property
    def bit_depth(self) -> int:
        """8 or 16: the bits of one sample of `pixels`."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def height(self) -> int:
        """Rows, after the picture was turned upright."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns, after the picture was turned upright."""
        return int(self.pixels.shape[1])

    @property
    def is_gray(self) -> bool:
        """Whether there is one channel."""
        return self.pixels.ndim == 2


def check_pixels(pixels: Any) -> None:
    """Raise InvalidInputError unless `pixels` is a non-empty uint8 or uint16 array of [H,W] or [H,W,3]."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InvalidInputError(f"expected a uint8 or uint16 array of pixels, got {kind}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or 0 in pixels.shape:
        raise InvalidInputError(
            f"expected pixels of shape [H,W] or [H,W,3] with alpha kept apart, got {list(pixels.shape)}"
        )
