"""Images larger than memory: reads a file row by row, and converts a raw file of rows into an image file.

PNG, TIFF or JPEG --RowReader.read, top to bottom--> rows --a raw file--> write_rows --> tiled BigTIFF or PNG
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kbnet import files
from kbnet.errors import ImageTooLargeError, OutputError, UnsupportedImageError
from kbnet.imaging import exif
from kbnet.imaging._mapped import keep_unmapped
from kbnet.imaging._vips import FAILURES, field_bytes, field_number, pyvips, reason, sample_bits_of
from kbnet.imaging.containers import collect, png, tiff
from kbnet.imaging.containers.found import Found
from kbnet.imaging.photo import SUFFIX_FORMATS, Block, Metadata, Pixels, printable
from kbnet.imaging.planning import fit_beside
from kbnet.imaging.reading import Opened, _header, _opened
from kbnet.imaging.settling import orientation_of, settle
from kbnet.imaging.sniff import Container, damaged, failed, guarded

STREAMED_FORMATS = ("tiff", "png")
"""Formats that can be written row by row. JPEG can only be read that way, as it is limited to 65500 pixels per side."""

_LINES = 64
_TILE = 256  # side of the tiles of a written TIFF, pixels


@dataclass(frozen=True)
class RowFacts:
    """Properties of an image that is read row by row.

    Attributes:
        format: format of the file.
        width, height: size in pixels as stored. Nothing is rotated; `orientation` (EXIF, 1 to 8) is kept instead.
        channels: 1 or 3.
        bands: `channels`, plus one for alpha or, if `unspecified`, for a channel not declared as alpha.
        dtype: uint8 or uint16.
        orientation: EXIF orientation, 1 to 8.
        icc_profile, metadata, notes, extras: as for `Photo`.
        unspecified: whether the last band is a channel that the file doesn't declare as alpha.
    """

    format: str
    width: int
    height: int
    channels: int
    bands: int
    dtype: np.dtype[Any]
    orientation: int
    icc_profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    unspecified: bool = False


class RowReader:
    """Reads rows of an open image from top to bottom. Skipped rows are decoded and discarded."""

    def __init__(self, image: Any, facts: RowFacts, name: str) -> None:
        self.facts, self._name = facts, name
        self._region = pyvips.Region.new(image)
        self._last: Pixels = np.empty((0, facts.width, facts.bands), facts.dtype)
        self._top = 0  # index of the first of these rows

    def read(self, top: int, count: int) -> Pixels:
        """Read rows `top` to `top + count` as [count,width,bands]. They may overlap the rows that were read last.

        Raises:
            UnreadableImageError: the file is damaged or truncated there.
        """
        facts = self.facts
        rows = np.empty((count, facts.width, facts.bands), facts.dtype)
        known = self._last[top - self._top :][:count] if top >= self._top else self._last[:0]
        rows[: len(known)] = known
        for start in range(len(known), count, _LINES):  # a few at a time, since each fetch returns a copy
            lines = min(_LINES, count - start)
            try:
                data = self._region.fetch(0, top + start, facts.width, lines)
            except FAILURES as error:
                raise damaged(self._name, facts.format, reason(error)) from None
            rows[start : start + lines] = np.frombuffer(data, facts.dtype).reshape(lines, facts.width, facts.bands)
        self._last, self._top = rows, top
        return rows


@contextmanager
def open_rows(source: Path | str, *, max_pixels: int | None = None) -> Iterator[RowReader]:
    """Open a PNG, TIFF or JPEG for reading row by row. Memory use doesn't depend on the image's height.

    Args:
        source: path of the file.
        max_pixels: largest accepted number of pixels; None for no limit.

    Raises:
        UnreadableImageError, UnsupportedImageError: as for `read_photo`; also for other formats, CMYK, and interlaced
            or progressive files, whose first rows are complete only at the end of the file.
        ImageTooLargeError: more than `max_pixels` pixels.
    """
    with _opened(source) as opened:
        _, (image, facts) = guarded(opened.file, opened.name, partial(_begin, opened))
        count = facts.width * facts.height
        if max_pixels is not None and count > max_pixels:
            raise ImageTooLargeError(
                f"{opened.name}: {facts.width} x {facts.height} exceeds the --max-pixels limit of {max_pixels}"
            )
        yield RowReader(image, facts, opened.name)


def _begin(opened: Opened, container: Container) -> tuple[Any, RowFacts]:
    """The image, none of whose rows is decoded yet, and what its header says."""
    if container.format not in (*STREAMED_FORMATS, "jpeg"):
        raise UnsupportedImageError(
            f"{opened.name}: --stream expects TIFF, PNG or JPEG, got {container.format}; convert the file"
        )
    found = collect(opened.file, container.format)
    try:
        image = _header(opened, container, found, "error")
        return image, _facts(image, container, found, opened.name)
    except FAILURES as error:
        raise failed(opened.file, opened.name, container.format, reason(error)) from None


def write_rows(
    raw: Path,
    facts: RowFacts,
    target: Path,
    *,
    overwrite: bool = False,
    times: files.Times | None = None,
    like: Path | None = None,
    announce: Callable[[Path], None] = lambda encoded: None,
) -> tuple[str, ...]:
    """Convert a raw file of rows into an image file. Memory use doesn't depend on the image's size.

    Args:
        raw: file with [height,width,bands] samples of `facts.dtype`. The result is built next to it, so it must be on
            the same file system as `target`.
        facts: properties of the image.
        target: path of the result; it appears there atomically. With the suffix of TIFF, it is a tiled BigTIFF with
            deflate compression and a pyramid of halved images in sub-IFDs; with the suffix of PNG, it is a PNG.
        overwrite: whether to replace an existing file.
        times, like: as for `kbnet.files.writing`.
        announce: called with the path of the complete temporary file before it is moved to `target`.

    Returns:
        One line for each thing that the format can't store.

    Raises:
        UnsupportedImageError: another suffix.
        OutputExistsError, OutputError: as for `write_photo`.
    """
    check_row_target(target, overwrite)
    wide = facts.dtype == np.uint16
    space = ("grey16" if wide else "b-w") if facts.channels == 1 else ("rgb16" if wide else "srgb")
    chosen = SUFFIX_FORMATS[target.suffix.lower()]
    temporary, pixels = raw.with_name(f"result{target.suffix}"), raw.with_name("pixels.png")
    try:
        image = pyvips.Image.rawload(
            str(raw),
            facts.width,
            facts.height,
            facts.bands,
            format="ushort" if wide else "uchar",
            interpretation=space,
            access="sequential",
        )
        with keep_unmapped(image, raw):
            if chosen == "png":
                shown = image.extract_band(0, n=facts.channels) if facts.unspecified else image
                shown.pngsave(str(pixels), bitdepth=16 if wide else 8, filter="all", keep="none")
            else:
                tiles = {"tile": True, "tile_width": _TILE, "tile_height": _TILE}
                # sub-IFDs, so that readers don't take the levels for pages
                levels = {"pyramid": True, "subifd": True, "bigtiff": True}
                image.tiffsave(
                    str(temporary), compression="deflate", predictor="horizontal", keep="none", **tiles, **levels
                )
        lost = _dress(pixels, facts, temporary, chosen)
        announce(temporary)
        files.place(temporary, target, overwrite=overwrite, times=times, like=like)
    except FAILURES as error:
        raise OutputError(
            f"{printable(target)}: can't be written: {reason(error) or 'the encoder failed'}; check the disk space"
        ) from None
    finally:
        pixels.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
    return lost


def _dress(pixels: Path, facts: RowFacts, result: Path, format: str) -> tuple[str, ...]:
    """Add metadata and profile to the encoded pixels, and return notes on what is lost. A TIFF is edited in place."""
    metadata, profile, lost = fit_beside(
        facts.metadata, facts.icc_profile, format, bit_depth=8 * facts.dtype.itemsize, gray=facts.channels == 1
    )
    if format == "tiff":
        with result.open("r+b") as file:
            tiff.dress(file, metadata, profile, orientation=facts.orientation, unspecified=facts.unspecified)
        return lost
    if facts.unspecified:
        lost = ("the extra channel is not kept in PNG; TIFF keeps it", *lost)
    if facts.orientation != 1:  # a TIFF has it outside of its EXIF
        turned = exif.oriented(metadata.first("exif"), facts.orientation)
        others = tuple(block for block in metadata.blocks if block.kind != "exif")
        metadata = replace(metadata, blocks=(*others, Block("exif", turned)))
    with pixels.open("rb") as file, files.writing(result, overwrite=True) as target:
        png.dress(file, target, metadata, profile)
    return lost


def check_row_target(target: Path, overwrite: bool) -> None:
    """Check early, before hours of work, whether `write_rows` can write `target`; raises what it would raise."""
    if SUFFIX_FORMATS.get(target.suffix.lower()) not in STREAMED_FORMATS:
        raise UnsupportedImageError(
            f"{printable(target)}: expected an output name ending in .tif, .tiff or .png with --stream"
        )
    files.check(target, overwrite=overwrite)


def _facts(image: Any, container: Container, found: Found, name: str) -> RowFacts:
    if image.interpretation == "cmyk":
        raise UnsupportedImageError(f"{name}: CMYK is not supported with --stream; convert the file to RGB")
    if image.format == "float":
        raise UnsupportedImageError(
            f"{name}: float samples are not supported with --stream; convert the file to a 16-bit TIFF"
        )
    if field_number(image, "interlaced", 0):
        raise UnsupportedImageError(
            f"{name}: interlaced and progressive files are not supported with --stream; save it without interlacing"
        )
    notes = list(container.notes)
    orientation = orientation_of(found, container.format)
    metadata, lost = settle(found, orientation, turned=False)
    if field_number(image, "palette", 0):
        notes.append("palette expanded to RGB")
    elif (bits := sample_bits_of(image)) < 8:
        notes.append(f"{bits}-bit samples expanded to 8-bit")
    return RowFacts(
        format=container.format,
        width=image.width,
        height=image.height,
        channels=1 if image.bands < 3 else 3,
        bands=image.bands,
        dtype=np.dtype(np.uint8 if image.format == "uchar" else np.uint16),
        orientation=orientation,
        icc_profile=field_bytes(image, "icc-profile-data"),
        metadata=metadata,
        notes=(*notes, *lost),
        extras=tuple(found.extras),
        unspecified=found.unspecified_channel,
    )
