"""The decoded form of an image file: pixels, metadata, and where it came from."""

from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError
from kbnet.files import printable as printable

if TYPE_CHECKING:
    from kbnet.imaging.coding import JpegCoding

Pixels = NDArray[np.uint8 | np.uint16 | np.float32]

FORMATS = ("png", "jpeg", "tiff", "webp", "avif", "heic")
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
    ".heic": "heic",
    ".heif": "heic",
    ".hif": "heic",
}
SUPPORTED_SUFFIXES = tuple(SUFFIX_FORMATS)
"""File name suffixes of formats that can be read and written, in lower case with the dot."""

READ_SUFFIXES = (".bmp", ".gif")
"""Suffixes of formats that can only be read. Their results are written as PNG by default."""

DNG = "dng"
"""Format of developed camera raw files only: a TIFF for raw editors, see `kbnet.imaging.dng`."""


def is_supported(path: Path | str) -> bool:
    """Return whether the file name has the suffix of a format that can be read and written. The file isn't opened.

    >>> is_supported("holiday.JPG"), is_supported("holiday.gif")
    (True, False)
    """
    format = SUFFIX_FORMATS.get(Path(path).suffix.lower())
    return format is not None and (format != "heic" or writes_heic())


def format_named(path: Path | str) -> str | None:
    """Return the format that a file name asks for when it is written, or None.

    >>> format_named("holiday.JPG"), format_named("holiday.dng"), format_named("holiday.gif")
    ('jpeg', 'dng', None)
    """
    suffix = Path(path).suffix.lower()
    return DNG if suffix == f".{DNG}" else SUFFIX_FORMATS.get(suffix)


@cache
def writes_heic() -> bool:
    """Return whether HEIC can be written, which needs the extra `heic`."""
    return find_spec("pillow_heif") is not None


def is_readable(path: Path | str) -> bool:
    """Return whether the file name has the suffix of a format that can be read, including read-only formats.

    >>> is_readable("holiday.jfif"), is_readable("holiday.gif"), is_readable("holiday.psd")
    (True, True, False)
    """
    suffix = Path(path).suffix.lower()
    return suffix in SUFFIX_FORMATS or suffix in READ_SUFFIXES


@dataclass(frozen=True)
class Block:
    """A piece of metadata as bytes, which are parsed only as far as needed.

    Attributes:
        kind: key of the table `kbnet.imaging.blocks.KINDS`, which says how each format handles it.
        data: its content without the framing of the file format it comes from.
        name: identifies it within its kind: PNG or WebP chunk, JPEG marker, or TIFF tag number.
        code: for a TIFF tag, the type of its values. Their bytes are in little-endian order.
    """

    kind: str
    data: bytes
    name: str = ""
    code: int = 0


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit, horizontal and vertical. `unit` is "inch", "cm", "metre", or "" for an aspect ratio only."""

    x: Fraction
    y: Fraction
    unit: str = "inch"

    def per(self, unit: str) -> tuple[Fraction, Fraction]:
        """Return (x, y) in another unit."""
        scale = _PER_METRE[unit] / _PER_METRE[self.unit]
        return self.x / scale, self.y / scale

    def __str__(self) -> str:
        if not self.unit:
            return f"pixels of {float(self.x):g} by {float(self.y):g}"
        return f"{float(self.per('inch')[0]):.4g} dpi"


_PER_METRE = {"inch": Fraction(10000, 254), "cm": Fraction(100), "metre": Fraction(1), "": Fraction(1)}


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file, other than its colour profile.

    `blocks` are in file order. An EXIF block starts at its TIFF header. Its orientation is 1, since the pixels are
    upright, and its thumbnail is removed, since it shows the unrestored image. `resolution` is None if the file doesn't
    specify it, or only does so in EXIF.
    """

    blocks: tuple[Block, ...] = ()
    resolution: Resolution | None = None

    def first(self, kind: str) -> bytes | None:
        """Return the data of the first block of a kind, or None."""
        return next((block.data for block in self.blocks if block.kind == kind), None)

    def all(self, kind: str) -> tuple[Block, ...]:
        """Return all blocks of a kind."""
        return tuple(block for block in self.blocks if block.kind == kind)


@dataclass(frozen=True)
class Tail:
    """What follows the image in its JPEG file and remains valid for the restored image, such as an HDR gain map.

    Attributes:
        names: what it contains, as in `Photo.extras`.
        data: the bytes.
        images: start and end of each image in `data`.
        index: the MPF index of the image, from its TIFF header; empty if there is none.
        marks: contents of other segments of the image that announce the tail.
    """

    names: tuple[str, ...]
    data: bytes = field(repr=False)
    images: tuple[tuple[int, int], ...] = ()
    index: bytes = field(default=b"", repr=False)
    marks: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image file: upright pixels, and everything needed to write them back in the same form.

    To write other pixels with the same metadata, use `dataclasses.replace(photo, pixels=restored)`.

    Attributes:
        pixels: [H,W] (gray) or [H,W,3] (colour), without alpha; uint8 or uint16 over the full range, or float32,
            nominally in [0,1], of files with float or scene-linear samples.
        alpha: [H,W], same dtype as `pixels`, 0 = transparent, not premultiplied. It is kept unchanged, not restored.
        format: format of the file, one of `FORMATS`.
        icc_profile: ICC colour profile, or None.
        metadata: EXIF, XMP and other blocks.
        sample_bits: bits per sample in the file, 1 to 32, so that a 10-bit AVIF stays 10-bit.
        lossless: whether the file's compression is lossless, so that a lossless WebP stays lossless.
        notes: one line for each change made while reading.
        extra_channel: [H,W], same dtype as `pixels`: a channel that the file doesn't declare as alpha, such as a
            scanner's infrared channel or a mask. It is kept unchanged, not restored. Only TIFF can store it.
        extras: names of further images and sounds in the file that a result can't contain, such as "a second image".
            Overwriting the file loses them.
        source: path of the file that the photo was read from, or None.
        linear: whether the file's samples are scene-linear. Then `pixels` are encoded (`kbnet.imaging.linear`), which
            makes them look like those of other photos, and writing decodes them.
        coding: how a JPEG was encoded, to write a result in the same way; None for other formats, or if unknown.
        developed: whether the file is a camera raw file.
        undeveloped: the bytes of that file, so that its noise can be removed before it is developed.
        linear_dng: whether to write the TIFF as a linear DNG.
        tail: what follows the image in a JPEG file and is kept in a JPEG; None if there is nothing.

    Raises:
        InvalidInputError: wrong shapes or dtypes, or a format that isn't in `FORMATS`.
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
    linear: bool = False
    coding: "JpegCoding | None" = None
    developed: bool = False
    undeveloped: bytes | None = field(default=None, repr=False)
    linear_dng: bool = False
    tail: Tail | None = None

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
            raise InvalidInputError("expected either alpha or an extra channel, got both")
        if self.format not in FORMATS:
            raise InvalidInputError(f"expected one of the formats {', '.join(FORMATS)}, got {self.format!r}")
        if self.sample_bits == 0:
            object.__setattr__(self, "sample_bits", self.bit_depth)

    @property
    def bit_depth(self) -> int:
        """Bits per sample of `pixels`: 8, 16 or 32."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def height(self) -> int:
        """Number of rows of the upright image."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns of the upright image."""
        return int(self.pixels.shape[1])

    @property
    def is_gray(self) -> bool:
        """Whether the image has one channel."""
        return self.pixels.ndim == 2


def check_pixels(pixels: Any) -> None:
    """Raise InvalidInputError unless `pixels` is [H,W] or [H,W,3], not empty, of uint8, uint16 or float32."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InvalidInputError(f"expected a uint8, uint16 or float32 array of pixels, got {kind}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or 0 in pixels.shape:
        raise InvalidInputError(f"expected pixels of shape [H,W] or [H,W,3], without alpha, got {list(pixels.shape)}")
