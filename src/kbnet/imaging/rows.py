"""Pictures larger than memory: rows of one file in order, and a raw file of rows made into a picture.

PNG, TIFF or JPEG --RowReader.read, top to bottom--> rows --a raw file--> write_rows --> tiled BigTIFF or PNG
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kbnet import files
from kbnet.errors import ImageTooLargeError, OutputError, UnsupportedImageError
from kbnet.imaging._mapped import keep_unmapped
from kbnet.imaging._vips import FAILURES, pyvips, reason
from kbnet.imaging.containers import collect, png, tiff
from kbnet.imaging.containers.found import Found
from kbnet.imaging.photo import SUFFIX_FORMATS, Metadata, Pixels, printable
from kbnet.imaging.planning import fit_beside
from kbnet.imaging.reading import _blob, _header, _number, _opened, _sample_bits
from kbnet.imaging.settling import orientation_of, settle
from kbnet.imaging.sniff import Container, damaged, failed, sniff

STREAMED_FORMATS = ("tiff", "png")
"""What is written row by row; JPEG is read so, and ends at 65500 pixels a side."""

_LINES = 64
_TILE = 256  # of the written TIFF, pixels


@dataclass(frozen=True)
class RowFacts:
    """A picture that is read by rows.

    `width` and `height` are as stored: nothing is turned, `orientation` (EXIF, 1 to 8) is kept. `channels` is 1 or 3,
    and there is one more of `bands` where there is alpha, or, with `unspecified`, a channel that the file does not call
    transparency. `dtype` is uint8 or uint16. `extras` and the rest are as in a `Photo`.
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
    """Rows of an open picture, from top to bottom; what is passed over is decoded and dropped."""

    def __init__(self, image: Any, facts: RowFacts, name: str) -> None:
        self.facts, self._name = facts, name
        self._region = pyvips.Region.new(image)
        self._last: Pixels = np.empty((0, facts.width, facts.bands), facts.dtype)
        self._top = 0  # of the last rows

    def read(self, top: int, count: int) -> Pixels:
        """Rows `top` to `top + count`, [count,width,bands]; they may begin within the rows that were read last.

        Raises:
            UnreadableImageError: the file is damaged or cut short there.
        """
        facts = self.facts
        rows = np.empty((count, facts.width, facts.bands), facts.dtype)
        known = self._last[top - self._top :][:count] if top >= self._top else self._last[:0]
        rows[: len(known)] = known
        for start in range(len(known), count, _LINES):  # some at a time, since each comes as a copy
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
    """Open a PNG, TIFF or JPEG for reading by rows; memory does not depend on its height.

    Raises:
        UnreadableImageError, UnsupportedImageError: as `read_photo`; also for other formats, for CMYK, and for
            interlaced files, whose first rows are known only at their end.
        ImageTooLargeError: more pixels than `max_pixels`; None is no limit.
    """
    with _opened(source) as opened:
        container = sniff(opened.file, opened.name)
        if container.format not in (*STREAMED_FORMATS, "jpeg"):
            raise UnsupportedImageError(
                f"{opened.name}: expected TIFF, PNG or JPEG to read by rows, got {container.format}; convert it first"
            )
        found = collect(opened.file, container.format)
        try:
            image = _header(opened, container, found, "error")
            facts = _facts(image, container, found, opened.name)
        except FAILURES as error:
            raise failed(opened.file, opened.name, container.format, reason(error)) from None
        count = facts.width * facts.height
        if max_pixels is not None and count > max_pixels:
            raise ImageTooLargeError(
                f"{opened.name}: {facts.width} x {facts.height} is more than the {max_pixels} pixels of --max-pixels"
            )
        yield RowReader(image, facts, opened.name)


def write_rows(
    raw: Path,
    facts: RowFacts,
    target: Path,
    *,
    overwrite: bool = False,
    times: files.Times | None = None,
    announce: Callable[[Path], None] = lambda encoded: None,
) -> tuple[str, ...]:
    """Make a picture of a file of rows, [height,width,bands] of `facts.dtype`, in memory that does not depend on size.

    A name of TIFF becomes a tiled BigTIFF, deflated, with a pyramid of halved pictures in its sub-directories; a name
    of PNG a PNG. It appears whole or not at all: until then it lies beside `raw`, on the same file system as `target`.
    `announce` is called with its path there when it is whole; `times` are those that it is to have.

    Returns:
        One line for each thing that the format does not hold.

    Raises:
        UnsupportedImageError: another format.
        OutputExistsError, OutputError: as `write_photo`.
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
        keep_unmapped(image, raw)
        if chosen == "png":
            if facts.unspecified:
                image = image.extract_band(0, n=facts.channels)
            image.pngsave(str(pixels), bitdepth=16 if wide else 8, filter="all", keep="none")
        else:
            tiles = {"tile": True, "tile_width": _TILE, "tile_height": _TILE}
            # sub-directories, so that the levels are not taken for pages
            levels = {"pyramid": True, "subifd": True, "bigtiff": True}
            image.tiffsave(
                str(temporary), compression="deflate", predictor="horizontal", keep="none", **tiles, **levels
            )
        lost = _dress(pixels, facts, temporary, chosen)
        announce(temporary)
        files.place(temporary, target, overwrite=overwrite, times=times)
    except FAILURES as error:
        raise OutputError(
            f"{printable(target)}: cannot be written: {reason(error) or 'the encoder failed'}; is there space left?"
        ) from None
    finally:
        pixels.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
    return lost


def _dress(pixels: Path, facts: RowFacts, result: Path, format: str) -> tuple[str, ...]:
    """Make the result of an encoded file, metadata and profile, and say what it does not hold; a TIFF is one file."""
    metadata, profile, lost = fit_beside(
        facts.metadata, facts.icc_profile, format, bit_depth=8 * facts.dtype.itemsize, gray=facts.channels == 1
    )
    if format == "tiff":
        with result.open("r+b") as file:
            tiff.dress(file, metadata, profile, orientation=facts.orientation, unspecified=facts.unspecified)
        return lost
    if facts.unspecified:
        lost = ("the channel beside the colours is not kept in PNG; TIFF keeps it", *lost)
    if facts.orientation != 1 and not metadata.all("exif"):
        lost = (f"the orientation ({facts.orientation}) is not kept in PNG; TIFF keeps it", *lost)
    with pixels.open("rb") as file, files.writing(result, overwrite=True) as target:
        png.dress(file, target, metadata, profile)
    return lost


def check_row_target(target: Path, overwrite: bool) -> None:
    """Refuse before the hours of work what `write_rows` would refuse after them."""
    if SUFFIX_FORMATS.get(target.suffix.lower()) not in STREAMED_FORMATS:
        raise UnsupportedImageError(
            f"{printable(target)}: expected a name ending in .tif, .tiff or .png for a result written by rows"
        )
    files.check(target, overwrite=overwrite)


def _facts(image: Any, container: Container, found: Found, name: str) -> RowFacts:
    if image.interpretation == "cmyk":
        raise UnsupportedImageError(f"{name}: CMYK is not restored by rows; convert it to RGB first")
    if _number(image, "interlaced", 0):
        raise UnsupportedImageError(
            f"{name}: an interlaced or progressive file cannot be read by rows; save it without that first"
        )
    notes = list(container.notes)
    orientation = orientation_of(found, container.format)
    metadata, lost = settle(found, orientation, turned=False)
    if _number(image, "palette", 0):
        notes.append("palette expanded to RGB")
    elif (bits := _sample_bits(image)) < 8:
        notes.append(f"{bits}-bit samples expanded to 8-bit")
    return RowFacts(
        format=container.format,
        width=image.width,
        height=image.height,
        channels=1 if image.bands < 3 else 3,
        bands=image.bands,
        dtype=np.dtype(np.uint8 if image.format == "uchar" else np.uint16),
        orientation=orientation,
        icc_profile=_blob(image, "icc-profile-data"),
        metadata=metadata,
        notes=(*notes, *lost),
        extras=tuple(found.extras),
        unspecified=found.unspecified_channel,
    )
