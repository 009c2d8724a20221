"""Format detection from a file's first bytes. Unsupported formats are refused by name.

Only these bytes choose the loader, so a file can never reach one of libvips' many other loaders.
"""

import logging
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from kbnet.errors import ImageError, KBNetError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import ifd, raw
from kbnet.imaging.containers import bmff, bmp, heif, tiff, undecodable
from kbnet.imaging.containers.found import MALFORMED
from kbnet.imaging.photo import FORMATS, writes_heic
from kbnet.imaging.raw import develops_raw

_Read = TypeVar("_Read")
_log = logging.getLogger(__name__)

_EXPECTED = "expected PNG, JPEG, TIFF, WebP, AVIF, HEIC, GIF or BMP"
_CONVERT = "convert it to PNG, JPEG, TIFF, WebP, AVIF or HEIC"
_PNG = b"\x89PNG\r\n\x1a\n"

# Formats that people do try: the message names the format rather than saying "not an image".
_STRANGERS = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"<svg", "an SVG drawing"),
    (b"P4", "a PBM image"),
    (b"P5", "a PGM image"),
    (b"P6", "a PPM image"),
)

_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
_RAW_MAGICS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"IIU\0", b"MMOR")
RAW_SUFFIXES = {".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw",
                ".orf", ".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"}  # fmt: skip
"""Names of camera raw files that are TIFFs, whose first image may be a small preview."""
_WIDTH, _HEIGHT = 256, 257
_PHOTOMETRIC = 262
_DNG_VERSION = 50706
# The longest side that libvips accepts; above it, libvips writes to stderr where no handler can catch it.
_MAX_SIDE = 100_000_000


@dataclass(frozen=True)
class Container:
    """The detected format, whether its compression is lossless, and notes on what reading it loses."""

    format: str
    lossless: bool
    notes: tuple[str, ...] = ()

    @property
    def written_as(self) -> str:
        """The default format of a result: the same, or if it can't be written, AVIF for HEIC, TIFF for raw, or PNG."""
        if self.format == "heic":
            return "heic" if writes_heic() else "avif"
        if self.format == "raw":
            return "tiff"
        return self.format if self.format in FORMATS else "png"


def sniff(file: BinaryIO, name: str) -> Container:
    """Detect the format of an open file. Moves the file's position.

    Raises:
        UnreadableImageError: not an image.
        UnsupportedImageError: an unsupported kind of image: another format, or an animation.
    """
    file.seek(0)
    head = file.read(64)
    if not head:
        raise UnreadableImageError(f"{name}: the file is empty; get it again from its source")
    if head.startswith(_PNG):
        return _png(file, name)
    if head.startswith(b"\xff\xd8\xff"):
        return Container("jpeg", lossless=False)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(file, name, head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Container("webp", lossless=_webp_is_lossless(file))
    if head[4:8] == b"ftyp":
        return _heif(file, name, head)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return Container("gif", lossless=True, notes=("GIF can't be written; the default output format is PNG",))
    if head[:2] == b"BM" and (bitmap := bmp.read_header(file)) is not None:
        return _bmp(bitmap, name)
    if head.startswith(_RAW_MAGICS):
        return _raw(name)
    for magic, kind in _STRANGERS:
        if head.startswith(magic):
            raise UnsupportedImageError(f"{name}: this is {kind}, which is not supported; {_CONVERT}")
    what = "it contains text" if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head) else "unknown format"
    raise UnreadableImageError(f"{name}: not an image ({what}); {_EXPECTED}")


def _png(file: BinaryIO, name: str) -> Container:
    file.seek(len(_PNG))
    # libvips silently reads only the first frame of an animated PNG. The acTL chunk comes before IDAT.
    for _ in range(1000):
        header = file.read(8)
        if len(header) < 8:
            break
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            break
        if kind == b"acTL":
            frames = struct.unpack(">I", file.read(4).rjust(4, b"\0"))[0]
            if frames > 1:
                raise _animation(name, "PNG")
            file.seek(length, 1)
            continue
        file.seek(length + 4, 1)
    return Container("png", lossless=True)


def _tiff(file: BinaryIO, name: str, head: bytes) -> Container:
    form = ifd.read_form(file)
    pages = tiff.pages(file, form) if form else []
    if not pages:
        # damaged; let libvips report it
        return Container("tiff", lossless=True)
    # A camera raw file is a TIFF whose first image is a small preview: restoring it would be a silent mistake.
    picture = next((page.directory for page in pages if page.is_picture), None)
    named_so = Path(name).suffix.lower() in RAW_SUFFIXES
    if (
        head[8:10] == b"CR"
        or picture is None
        or named_so
        or any(_DNG_VERSION in page.directory.entries for page in pages)
    ):
        return _raw(name)
    if max(picture.number(_WIDTH), picture.number(_HEIGHT)) > _MAX_SIDE:
        raise damaged(name, "tiff", "invalid size")
    if picture.number(_PHOTOMETRIC) in (8, 9, 10):
        raise UnsupportedImageError(f"{name}: expected gray, RGB or CMYK, got Lab; convert it to RGB")
    # JPEG, WebP and LERC compression may be lossy; all others are lossless
    return Container("tiff", lossless=True)


def _raw(name: str) -> Container:
    if not develops_raw():
        raise UnsupportedImageError(
            f"{name}: camera raw files need an extra; run: pip install 'kbnet[raw]', or convert it to a 16-bit TIFF"
        )
    return Container("raw", lossless=True, notes=(raw.NOTE,))


def _bmp(header: bmp.Header, name: str) -> Container:
    what = bmp.unsupported(header)
    if what is not None:
        raise UnsupportedImageError(f"{name}: {what} is not supported; save it as PNG")
    return Container("bmp", lossless=True, notes=("BMP can't be written; the default output format is PNG",))


def _webp_is_lossless(file: BinaryIO) -> bool:
    file.seek(12)
    for _ in range(100):
        header = file.read(8)
        if len(header) < 8 or header[:4] == b"VP8 ":
            return False
        if header[:4] == b"VP8L":
            return True
        (length,) = struct.unpack("<I", header[4:])
        file.seek(length + (length & 1), 1)
    return False


def _heif(file: BinaryIO, name: str, head: bytes) -> Container:
    (size,) = struct.unpack(">I", head[:4])
    file.seek(0)
    box = file.read(min(max(size, 16), 4096))
    brands = {box[8:12], *(box[i : i + 4] for i in range(16, len(box) - 3, 4))}
    if b"avis" in brands:
        raise _animation(name, "AVIF")
    if b"avif" in brands:
        _check_avif(file, name)
        return Container("avif", lossless=False)
    if box[8:12] in (b"hevc", b"hevx", b"msf1"):
        raise _animation(name, "HEIF image sequence")
    if brands & _HEIC_BRANDS:
        return _heic(file, name)
    if b"crx " in brands:
        return _raw(name)
    raise UnsupportedImageError(f"{name}: {_EXPECTED}, got a video or another ISO media file; extract a still image")


def is_heic(start: bytes) -> bool:
    """Return whether a file that starts so is a HEIF file other than AVIF, intact or not."""
    if start[4:8] != b"ftyp":
        return False
    (size,) = struct.unpack(">I", start[:4])
    brands = {start[8:12], *(start[i : i + 4] for i in range(16, min(size, len(start)) - 3, 4))}
    return bool(brands & (_HEIC_BRANDS | {b"hevc", b"hevx", b"msf1"})) and b"avif" not in brands


def is_raw(file: BinaryIO) -> bool:
    """Return whether an open file is a camera raw file, by its structure alone."""
    file.seek(0)
    head = file.read(64)
    try:
        if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return develops_raw() and _tiff(file, "", head).format == "raw"
        return develops_raw() and (head.startswith(_RAW_MAGICS) or head[4:12] == b"ftypcrx ")
    except ImageError:
        return False  # reading it reports the error


def _heic(file: BinaryIO, name: str) -> Container:
    file.seek(0)
    try:
        facts = heif.describe(file.read())
    except (struct.error, IndexError, ValueError):
        facts = None
    if facts is None:
        raise damaged(name, "heic", "no main image")
    if max(facts.width, facts.height) > _MAX_SIDE:
        raise damaged(name, "heic", "invalid size")
    _refuse_hdr(facts.codes, name)
    notes = () if writes_heic() else ("the default output format is AVIF; for HEIC, run: pip install 'kbnet[heic]'",)
    return Container("heic", lossless=False, notes=notes)


def _refuse_hdr(codes: bytes | None, name: str) -> None:
    if codes is not None and len(codes) == 4 and struct.unpack(">HH", codes)[1] in (16, 18):
        raise UnsupportedImageError(f"{name}: HDR images (PQ or HLG) are not supported; convert it to SDR")


def _check_avif(file: BinaryIO, name: str) -> None:
    file.seek(0)
    start = file.read(65536)
    for size in re.finditer(rb"ispe....(.{4})(.{4})", start, re.DOTALL):
        if max(int.from_bytes(side) for side in size.groups()) > _MAX_SIDE:
            raise damaged(name, "avif", "invalid size")
    _refuse_hdr(bmff.colour_codes(start), name)


def _animation(name: str, kind: str) -> UnsupportedImageError:
    return UnsupportedImageError(f"{name}: animations are not supported ({kind}); save the frames as separate PNGs")


def failed(file: BinaryIO, name: str, format: str, why: str) -> ImageError:
    """Return the error for a file that libvips can't decode: unsupported if its header says so, else damaged."""
    kind = undecodable.why_not(file, format)
    if kind is None:
        return damaged(name, format, why)
    said = f" ({why})" if why else ""
    return UnsupportedImageError(
        f"{name}: {kind} is not supported{said}; save it as PNG, or as an uncompressed 8-bit or 16-bit TIFF"
    )


def damaged(name: str, format: str, why: str = "") -> UnreadableImageError:
    """Return the error for a file of this format that is truncated or damaged, with the decoder's reason if any.

    The format is empty if it isn't known yet.
    """
    kind = {"tiff": "TIFF", "webp": "WebP", "": "image"}.get(format, format.upper())
    said = f" ({why})" if why else ""
    return UnreadableImageError(f"{name}: the {kind} file is truncated or damaged{said}; get it again from its source")


def guarded(file: BinaryIO, name: str, read: Callable[[Container], _Read]) -> tuple[Container, _Read]:
    """Detect a file's format and read it.

    An error that no parser foresaw becomes that of a damaged file, so that it never stops the run over a folder.
    """
    format = ""
    try:
        container = sniff(file, name)
        format = container.format
        return container, read(container)
    except KBNetError:
        raise
    except MALFORMED as error:
        _log.warning("%s: a parser failed with %r; please report it", name, error, exc_info=True)
    # not above: the error would keep the half-decoded image
    raise damaged(name, format)
