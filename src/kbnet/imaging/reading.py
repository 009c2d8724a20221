"""Decoding: from files or bytes to photos."""

import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from kbnet.errors import ImageTooLargeError, InvalidInputError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import heif, isolated, raw
from kbnet.imaging._vips import FAILURES, field_bytes, field_number, pyvips, reason, sample_bits_of
from kbnet.imaging.cmyk import to_srgb
from kbnet.imaging.coding import coding_of
from kbnet.imaging.containers import bmp, collect, tails
from kbnet.imaging.containers.found import Found
from kbnet.imaging.icc import icc_name
from kbnet.imaging.isolated import Isolation
from kbnet.imaging.linear import check_floats, encode, floats, is_linear
from kbnet.imaging.photo import SUFFIX_FORMATS, Photo, Pixels, printable
from kbnet.imaging.settling import orientation_of, settle
from kbnet.imaging.sniff import Container, damaged, failed, guarded
from kbnet.imaging.xmp import describes

DEFAULT_MAX_PIXELS = 250_000_000
"""Default limit on an image's pixels: above today's cameras, and within a few GB once decoded."""

_LOADERS = {
    "png": pyvips.Image.pngload_source,
    "jpeg": pyvips.Image.jpegload_source,
    "tiff": pyvips.Image.tiffload_source,
    "webp": pyvips.Image.webpload_source,
    "avif": pyvips.Image.heifload_source,
    "gif": pyvips.Image.gifload_source,
}
# Values of libvips' fail_on. "truncated" would decode a truncated TIFF as noise, so all formats are read at "error".
# A JPEG with bad bytes in its middle fails only at "warning"; but cameras write harmless irregularities, too, so such a
# file is read again at "error" with a note rather than refused.
_STRICTNESS = {"jpeg": ("warning", "error")}
_SPACES = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb16": 3, "rgb": 3, "scrgb": 3, "cmyk": 4}
_KINDS = {"uchar": "8-bit integer", "ushort": "16-bit integer", "char": "signed 8-bit", "short": "signed 16-bit"}
_KINDS |= {"uint": "32-bit integer", "int": "signed 32-bit", "float": "32-bit float", "double": "64-bit float"}


@dataclass(frozen=True)
class ImageInfo:
    """Contents of a file's header, as shown by `kbnet info FILE`.

    Attributes:
        format: format of the file, such as "jpeg".
        width, height: size in pixels as displayed, after `orientation` is applied.
        colour: "gray", "RGB" or "CMYK".
        bit_depth: bits per sample in the file, 1 to 16, or 32 for floats.
        has_alpha: whether the file has an alpha channel.
        orientation: EXIF orientation, 1 to 8.
        icc_name: description in the colour profile; None without a profile.
    """

    format: str
    width: int
    height: int
    colour: str
    bit_depth: int
    has_alpha: bool
    orientation: int
    icc_name: str | None


@dataclass(frozen=True)
class Opened:
    """A file that is being read, or bytes as one, which are in `data` too. `name` is for messages."""

    name: str
    file: BinaryIO
    data: bytes | None
    isolation: Isolation | None = None

    def source(self) -> Any:
        """A new source for libvips."""
        if self.data is not None:
            return pyvips.Source.new_from_memory(self.data)
        # Use the descriptor whose format was checked, not the path: the file can't be swapped in between, and names
        # that aren't UTF-8 or that libvips would parse options from do no harm.
        self.file.seek(0)
        return pyvips.Source.new_from_descriptor(self.file.fileno())


def read_photo(
    source: Path | str | bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, isolation: Isolation | None = None
) -> Photo:
    """Decode an image file into an upright photo with its alpha, colour profile and metadata.

    The format is detected from the content, never from the name. 1, 2 and 4-bit samples are expanded to 8-bit, 10 and
    12-bit samples to the full 16-bit range, palettes to RGB, and CMYK is converted to sRGB. Scene-linear samples (float
    TIFF without a profile, or 16-bit and float samples with a linear one) are encoded for restoring. Each change or
    loss is reported in the photo's `notes`.

    Args:
        source: path of a file, or the bytes of a file.
        max_pixels: largest accepted number of pixels, at least 1.
        isolation: limits of the child process that decodes HEIC and camera raw files; None decodes them in this
            process.

    Raises:
        UnreadableImageError: the file is missing, not readable, not an image, truncated or damaged.
        UnsupportedImageError: an animation, several pages, or another unsupported format.
        ImageTooLargeError: more than `max_pixels` pixels; checked in the header, before decoding.
        InvalidInputError: `max_pixels` is below 1.
    """
    if max_pixels < 1:
        raise InvalidInputError(f"expected max_pixels of at least 1, got {max_pixels}")
    with _opened(source) as opened:
        opened = replace(opened, isolation=isolation)
        container, photo = guarded(
            opened.file, opened.name, lambda container: _decode_strictly(opened, container, max_pixels)
        )
    notes = photo.notes
    named = SUFFIX_FORMATS.get(Path(source).suffix.lower()) if isinstance(source, (str, Path)) else None
    if named not in (None, container.format):
        notes += (f"the file name says {named}, but the content is {container.format}; read as {container.format}",)
    return replace(photo, notes=notes, source=None if isinstance(source, bytes) else Path(source))


def probe(source: Path | str | bytes, *, isolation: Isolation | None = None) -> ImageInfo:
    """Read the header of an image file of any size without decoding the pixels.

    Args:
        source: path of a file, or the bytes of a file.
        isolation: limits of the child process that reads camera raw files; None reads them in this process.

    Raises:
        UnreadableImageError, UnsupportedImageError: as for `read_photo`. Damage after the header isn't detected.
    """
    with _opened(source) as opened:
        opened = replace(opened, isolation=isolation)
        return guarded(opened.file, opened.name, partial(_info, opened))[1]


def _info(opened: Opened, container: Container) -> ImageInfo:
    found = collect(opened.file, container.format, whole=False)
    try:
        image = _header(opened, container, found, "error")
    except FAILURES as error:
        raise failed(opened.file, opened.name, container.format, reason(error)) from None
    orientation = orientation_of(found, container.format)
    width, height = image.width, image.height
    if orientation >= 5:
        width, height = height, width
    profile = field_bytes(image, "icc-profile-data")
    colour = {1: "gray", 4: "CMYK"}.get(_SPACES[image.interpretation], "RGB")
    return ImageInfo(
        format=container.format,
        width=width,
        height=height,
        colour=colour,
        bit_depth=sample_bits_of(image),
        has_alpha=bool(image.hasalpha()) and not found.unspecified_channel,
        orientation=orientation,
        icc_name=icc_name(profile) if profile else None,
    )


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation, 1 to 8, to stored pixels [H,W] or [H,W,C].

    Returns a view of the input. Orientations 5 to 8 swap height and width.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@contextmanager
def _opened(source: Path | str | bytes) -> Iterator[Opened]:
    if isinstance(source, bytes):
        yield Opened("the image data", io.BytesIO(source), source)
        return
    name = printable(source)
    try:
        file = _open_file(Path(source), name)
    except (OSError, ValueError) as error:
        # ValueError: the name contains a null byte
        raise _not_readable(name, error) from None
    with file:
        yield Opened(name, file, file.getvalue() if isinstance(file, io.BytesIO) else None)


def _open_file(path: Path, name: str) -> BinaryIO:
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        # unbuffered, since libvips reads through the same descriptor and moves the same position
        return cast("BinaryIO", _Input(path, name))
    if stat.S_ISFIFO(mode):
        return io.BytesIO(path.read_bytes())
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or socket"
    raise UnreadableImageError(f"{name}: expected an image file, got {kind}; pass the path of a file")


class _Input(io.FileIO):
    """A file whose read errors name it. Catching errors around the reading block instead would blame it for outputs."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, "rb")
        self._shown = name

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _not_readable(self._shown, error) from None

    def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            raise _not_readable(self._shown, error) from None


def _not_readable(name: str, error: OSError | ValueError) -> UnreadableImageError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnreadableImageError(f"{name}: can't be read: {why.lower()}; check the path and its permissions")


def _header(opened: Opened, container: Container, found: Found, level: str) -> Any:
    """Open the image lazily and refuse unsupported kinds. Raises one of FAILURES if the file is damaged."""
    options = {"page": found.page} if found.page else {}
    if container.format == "jpeg" or not found.pages:
        pages = None
    else:
        pages = found.pages
    _refuse_pages(opened.name, container, pages or 1)
    if container.format == "bmp":
        return _bitmap(opened)
    if container.format == "heic":
        return heif.header(_whole(opened), opened.name)
    if container.format == "raw":
        if opened.isolation is None:
            return raw.blank(*raw.size(_whole(opened), opened.name))
        height, width = isolated.decode("raw-size", _whole(opened), opened.name, isolated.HEADERS)
        return raw.blank(int(height), int(width))
    image = _LOADERS[container.format](opened.source(), access="sequential", fail_on=level, **options)
    name = opened.name
    if pages is None:
        _refuse_pages(name, container, field_number(image, "n-pages", 1))
    expected = _SPACES.get(image.interpretation)
    if image.format not in ("uchar", "ushort") and not (image.format == "float" and image.interpretation != "cmyk"):
        kind = _KINDS.get(image.format, str(image.format))
        raise UnsupportedImageError(
            f"{name}: expected 8-bit, 16-bit or 32-bit float samples, got {kind}; convert the file to a 16-bit TIFF or "
            "PNG, or pass a float array to kbnet.restore"
        )
    if expected is None or image.bands - expected not in (0, 1) or (expected == 4 and image.bands != 4):
        raise UnsupportedImageError(
            f"{name}: expected gray, RGB (with or without alpha) or CMYK, got {image.bands} channels of "
            f"{image.interpretation}; convert the file to RGB"
        )
    return image


def _bitmap(opened: Opened) -> Any:
    """Return a libvips image with a BMP's size and profile. libvips can't read BMP; `_bitmap_pixels` decodes it."""
    header = bmp.read_header(opened.file)
    assert header is not None  # checked when the format was detected
    bands = 4 if header.has_alpha else 3
    image = pyvips.Image.black(header.width, header.height, bands=bands).copy(interpretation="srgb")
    profile = bmp.profile_of(opened.file, header)
    if profile is not None:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


def _whole(opened: Opened) -> bytes:
    if opened.data is not None:
        return opened.data
    opened.file.seek(0)
    return opened.file.read()


def _foreign_pixels(opened: Opened, decode: Callable[[bytes, str], Pixels], kind: str) -> Pixels:
    """Decode a file with another library than libvips."""
    if opened.isolation is None:
        return decode(_whole(opened), opened.name)
    return isolated.decode(kind, _whole(opened), opened.name, opened.isolation)


def _bitmap_pixels(opened: Opened) -> Pixels:
    header = bmp.read_header(opened.file)
    pixels = None if header is None else bmp.decode(opened.file, header)
    if pixels is None:
        raise damaged(opened.name, "bmp")
    return pixels


def _refuse_pages(name: str, container: Container, pages: int) -> None:
    if pages < 2:
        return
    if container.format in ("webp", "gif"):
        kind = "WebP" if container.format == "webp" else "GIF"
        what, cure = f"animations are not supported ({kind}, {pages} frames)", "save the frames as separate PNG files"
    else:
        what, cure = f"files with several pages are not supported ({pages} pages)", "save each page as a separate file"
    raise UnsupportedImageError(f"{name}: {what}; {cure}")


def _decode_strictly(opened: Opened, container: Container, max_pixels: int) -> Photo:
    """Decode at the strictest level that the file passes, with a note if that isn't the first level."""
    why = ""
    notes: tuple[str, ...] = ()
    found = collect(opened.file, container.format)
    # Keep only the text of a failure: the exception would keep the half-decoded image and its file open.
    for level in _STRICTNESS.get(container.format, ("error",)):
        try:
            image = _header(opened, container, found, level)
            _check_size(image, opened.name, max_pixels)
            photo = _decode(opened, image, container, found)
            return replace(photo, notes=photo.notes + notes)
        except FAILURES as error:
            why = reason(error)
            notes = ("the file contains irregular data; parts of the image may be damaged, so check the result",)
    raise failed(opened.file, opened.name, container.format, why)


def _check_size(image: Any, name: str, max_pixels: int) -> None:
    count = image.width * image.height
    if count > max_pixels:
        raise ImageTooLargeError(
            f"{name}: {image.width} x {image.height} is {count / 1e6:.1f} megapixels, more than the limit of "
            f"{max_pixels / 1e6:g}; if you trust the file, use --stream, which has no limit and needs little memory, "
            f"or raise the limit with --max-pixels {count}"
        )


def _decode(opened: Opened, image: Any, container: Container, found: Found) -> Photo:
    notes = list(container.notes)
    sample_bits = sample_bits_of(image)
    if field_number(image, "palette", 0):
        notes.append("palette expanded to RGB")
    elif sample_bits < 8:
        notes.append(f"{sample_bits}-bit samples expanded to 8-bit")
    orientation = orientation_of(found, container.format)
    if orientation != 1:
        notes.append(f"rotated upright (orientation {orientation})")
    tail = tails.upright(found.tail, orientation, image.width * image.height) if found.tail else None
    lengths = tail[1] if tail else {}
    if not describes(found.first("xmp") or b"", lengths):
        tail = None
    metadata, metadata_notes = settle(found, orientation, kept=tail is not None, lengths=lengths)
    image, profile, colour_notes = _to_rgb(image)
    if container.format == "bmp":
        array = _bitmap_pixels(opened)
    elif container.format == "heic":
        array = _foreign_pixels(opened, heif.decode, "heic")
    elif container.format == "raw":
        array = _foreign_pixels(opened, raw.develop, "raw")
    else:
        array = _pixels(image, sample_bits)
    channels = 1 if array.shape[2] < 3 else 3
    more = array.shape[2] > channels
    fourth = np.ascontiguousarray(upright(array[:, :, channels], orientation)) if more else None
    pixels = array[:, :, 0] if channels == 1 else array[:, :, :3]
    if image.format == "float":
        check_floats(pixels, opened.name)
        notes += ["16-bit float samples expanded to 32-bit"] if field_number(image, "bits-per-sample", 32) == 16 else []
    linear = is_linear(image.format, profile)
    if linear:
        pixels, fourth = encode(floats(pixels)), None if fourth is None else floats(fourth)
    if found.unspecified_channel and fourth is not None:
        notes.append("the extra channel is not declared as transparency and is not restored")
    return Photo(
        pixels=np.ascontiguousarray(upright(pixels, orientation)),
        alpha=None if found.unspecified_channel else fourth,
        format=container.written_as,
        icc_profile=profile,
        metadata=metadata,
        sample_bits=sample_bits,
        lossless=container.lossless,
        notes=(*notes, *metadata_notes, *colour_notes),
        extra_channel=fourth if found.unspecified_channel else None,
        extras=() if tail else tuple(found.extras),
        tail=tail[0] if tail else None,
        linear=linear,
        developed=container.format == "raw",
        undeveloped=_whole(opened) if container.format == "raw" and opened.isolation is None else None,
        coding=coding_of(opened.file) if container.format == "jpeg" else None,
    )


def _to_rgb(image: Any) -> tuple[Any, bytes | None, tuple[str, ...]]:
    """Convert CMYK to sRGB. Gray and RGB keep their values and profile."""
    profile = field_bytes(image, "icc-profile-data")
    if image.interpretation == "cmyk":
        image, own = to_srgb(image, profile)
        through = "its profile" if own else "a generic profile; colours are approximate"
        return image, field_bytes(image, "icc-profile-data"), (f"CMYK converted to sRGB with {through}",)
    return image, profile, ()


def _pixels(image: Any, sample_bits: int) -> Pixels:
    dtype: Any = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}[image.format]
    shape = (image.height, image.width, image.bands)
    array: Pixels = np.ndarray(shape, dtype, buffer=image.write_to_memory())
    if dtype == np.uint16 and 8 < sample_bits < 16:
        # libvips shifts 10-bit and 12-bit samples up, which leaves white below 65535
        top = (1 << sample_bits) - 1
        level = np.arange(65536, dtype=np.uint32) >> (16 - sample_bits)
        array = ((level * 65535 + top // 2) // top).astype(np.uint16)[array]
    return array
