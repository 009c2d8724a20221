"""Metadata of TIFF files: tags, and the role of each directory."""

import io
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from kbnet.imaging import dng, exif, ifd, photoshop, xmp
from kbnet.imaging.containers.found import RAW_DATA, Found
from kbnet.imaging.ifd import Directory, Entry, Form
from kbnet.imaging.photo import Metadata, Resolution

_XMP, _IPTC, _PHOTOSHOP, _ICC, _LAYERS = 700, 33723, 34377, 34675, 37724
_X, _Y, _UNIT = exif.RESOLUTION_TAGS
_SUBFILE, _PHOTOMETRIC, _SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLES = 254, 262, 330, 338, 277
_REDUCED, _MASK = 1, 4
_CONTENT_CREDENTIALS = 52545
_GEOGRAPHIC = (33550, 33922, 34264, 34735, 34736, 34737)
_UNITS = {1: "", 2: "inch", 3: "cm"}
_MOST_ENTRIES = 100_000  # in all directories of a file
_LONGEST_OF_A_PAGE = 256  # bytes; values that describe a page's role are shorter


@dataclass(frozen=True)
class Page:
    """A directory in the file's main chain."""

    directory: Directory
    at: int

    @property
    def is_picture(self) -> bool:
        """Whether it is an image of its own, not a reduced copy or a mask of another."""
        return not self.directory.number(_SUBFILE) & (_REDUCED | _MASK)

    @property
    def cost(self) -> int:
        """About how many entries were read, including those that were skipped."""
        return 1 + (self.directory.next_at - self.at) // 12


def pages(file: BinaryIO, form: Form) -> list[Page]:
    """Read the directories of the main chain, without long values."""
    found: list[Page] = []
    seen, at, entries = set(), form.first, 0
    while at and at not in seen and entries < _MOST_ENTRIES:
        seen.add(at)
        page = _page(file, form, at)
        if page is None:
            break
        found.append(page)
        entries += page.cost
        at = page.directory.next
    return found


def _page(file: BinaryIO, form: Form, at: int) -> Page | None:
    directory = ifd.read_directory(file, form, at, children=False, longest=_LONGEST_OF_A_PAGE)
    return None if directory is None else Page(directory, at)


def collect(file: BinaryIO) -> Found:
    """Collect the metadata of the first image in a TIFF."""
    found = Found.of_file(file.seek(0, 2))
    form = ifd.read_form(file)
    every = pages(file, form) if form else []
    pictures = [number for number, page in enumerate(every) if page.is_picture]
    found.pages = len(pictures)
    if form is None or not pictures:
        return found
    if any(page.directory.number(_SUBFILE) & _MASK for page in every):
        found.extras.append("a mask on a separate page")
    if any(page.directory.number(_SUBFILE) & _REDUCED for page in every):
        found.notes.append("the reduced copy of the image on a separate page is not kept")
    found.page = pictures[0]
    directory = ifd.read_directory(file, form, every[found.page].at) or every[found.page].directory
    found.orientation = directory.number(exif.ORIENTATION)
    found.resolution = _resolution(directory)
    found.unspecified_channel = _is_unspecified(directory)
    _add_blocks(found, directory, form)
    _look_below(found, file, form, directory)
    if directory.damaged:
        tags = ", ".join(map(str, directory.damaged[:10]))
        found.notes.append(f"damaged TIFF tags are not kept ({tags})")
    return found


def collect_raw(file: BinaryIO) -> Found:
    """Collect what a developed photo keeps of a camera raw file: EXIF, XMP and captions, but no instructions for it."""
    found, everything = (Found.of_file(file.seek(0, 2)) for _ in range(2))
    found.extras.append(RAW_DATA)
    form = ifd.read_form(file)
    directory = ifd.read_directory(file, form, form.first) if form else None
    if form is None or directory is None:
        found.notes.append("EXIF is not read from this kind of camera raw file")
        return found
    _add_blocks(everything, directory, form)
    for block in everything.blocks:
        if block.kind in ("exif", "xmp", "iptc"):
            data = xmp.without_development(block.data) if block.kind == "xmp" else block.data
            if data is None:
                found.notes.append("the XMP block, which describes how to develop the raw data, is not kept")
                continue
            found.add(block.kind, data, block.name, block.code)
    found.notes += [note for note in everything.notes if note == exif.MOVED_NOTE]
    return found


def _add_blocks(found: Found, directory: Directory, form: Form) -> None:
    for entry in directory.repeated:
        if entry.tag not in exif.STORAGE | exif.ELSEWHERE | set(exif.RESOLUTION_TAGS):
            found.add("tag", entry.data, str(entry.tag), entry.kind)
    for tag, entry in directory.entries.items():
        if tag == _XMP:
            found.add("xmp", entry.data)
        elif tag == _PHOTOSHOP:
            found.add("photoshop", entry.data)
        elif tag == _IPTC:
            found.add("iptc", _records(entry))
        elif tag == _LAYERS:
            found.extras.append("Photoshop's layers")
        elif tag == _CONTENT_CREDENTIALS:
            found.add("content-credentials", entry.data, str(tag))
        elif tag in exif.STORAGE or tag in exif.DESCRIPTIVE or tag in exif.RESOLUTION_TAGS or tag == _ICC:
            continue
        elif entry.kind in ifd.IFD_TYPES:
            found.notes.append(f"TIFF tag {tag}, which points to data elsewhere in the file, is not kept")
        else:
            found.add("geo-tag" if tag in _GEOGRAPHIC else "tag", entry.data, str(tag), entry.kind)
    block = exif.from_tiff(directory, form)
    if block is not None:
        found.add("exif", block, exif.MOVED)
        if exif.has_maker_note(block):
            found.notes.append(exif.MOVED_NOTE)


def _records(entry: Entry) -> bytes:
    """Return IPTC records. Many programs store them as 32-bit numbers, some of them in the wrong byte order."""
    if entry.data[:1] != b"\x1c" and entry.kind == ifd.LONG:
        turned = ifd.swapped(entry.data, ifd.LONG)
        if turned[:1] == b"\x1c":
            return turned.rstrip(b"\0")
    return entry.data.rstrip(b"\0") if entry.kind == ifd.LONG else entry.data


def _resolution(directory: Directory) -> Resolution | None:
    sides = [_rational(directory.entries.get(tag)) for tag in (_X, _Y)]
    unit = _UNITS.get(directory.number(_UNIT, 2), "inch")
    if sides[0] is None or sides[1] is None or (not unit and sides[0] == sides[1]):
        return None
    return Resolution(sides[0], sides[1], unit)


def _rational(entry: Entry | None) -> Fraction | None:
    if entry is None or entry.kind != ifd.RATIONAL or len(entry.data) < 8:
        return None
    above, below = struct.unpack_from("<II", entry.data)
    return Fraction(above, below) if above and below else None


def _is_unspecified(directory: Directory) -> bool:
    """Return whether there is one extra channel that the file doesn't declare as alpha."""
    colours = {0: 1, 1: 1, 2: 3, 3: 1, 6: 3}.get(directory.number(_PHOTOMETRIC))
    if colours is None or directory.number(_SAMPLES, 1) != colours + 1:
        return False
    return directory.number(_EXTRA_SAMPLES) not in (1, 2)


def _look_below(found: Found, file: BinaryIO, form: Form, directory: Directory) -> None:
    entry = directory.entries.get(_SUB_DIRECTORIES)
    pictures = entries = 0
    for at in dict.fromkeys(entry.first(1000) if entry else ()):
        page = _page(file, form, at) if entries < _MOST_ENTRIES else None
        if page is not None:
            pictures += page.is_picture
            entries += page.cost
    if pictures:
        found.extras.append("a second image" if pictures == 1 else f"{pictures} more images")


def dress(
    file: BinaryIO,
    metadata: Metadata,
    profile: bytes | None,
    *,
    orientation: int = 1,
    unspecified: bool = False,
    linear_dng: bool = False,
) -> None:
    """Replace the first directory of an encoded TIFF, in place, by one with these blocks.

    The old directory remains as unused bytes. `unspecified` declares the extra channel as something other than alpha,
    `linear_dng` the samples as those of a linear DNG, whose tags describe the colours instead of a profile.
    """
    form = ifd.read_form(file)
    directory = ifd.read_directory(file, form, form.first, children=False) if form else None
    if form is None or directory is None:
        raise ValueError("no TIFF")
    ours = {_X, _Y, _UNIT, exif.ORIENTATION, *exif.ELSEWHERE, 269, 270, 305}
    entries = {tag: entry for tag, entry in directory.entries.items() if tag not in ours}
    result = Directory(entries)
    for block in metadata.all("exif"):
        inner = exif.for_tiff(block.data)
        if inner is not None:
            result.entries |= inner.entries
            result.children |= inner.children
    for entry in _entries(metadata, profile, has_resolution=_X in result.entries):
        if result.entries.setdefault(entry.tag, entry) is not entry:
            result.repeated.append(entry)
    if orientation != 1:
        result.entries[exif.ORIENTATION] = Entry(exif.ORIENTATION, ifd.SHORT, struct.pack("<H", orientation))
    if unspecified:
        result.entries[_EXTRA_SAMPLES] = Entry(_EXTRA_SAMPLES, ifd.SHORT, b"\0\0")
    if linear_dng:
        result.entries.pop(_ICC, None)
        result.entries |= {entry.tag: entry for entry in dng.entries(result)}
    at = file.seek(0, 2)
    at += file.write(bytes(at % 8 and 8 - at % 8))
    file.write(ifd.dump(result, at, form, following=directory.next))
    file.seek(8 if form.big else 4)
    file.write(struct.pack(form.order + ("Q" if form.big else "I"), at))


def _entries(metadata: Metadata, profile: bytes | None, *, has_resolution: bool) -> list[Entry]:
    entries = [
        Entry(int(block.name), block.code, block.data) for block in metadata.blocks if block.kind in ("tag", "geo-tag")
    ]
    if metadata.resolution is not None and not has_resolution:
        entries += _resolution_entries(metadata.resolution)
    for kind, tag in (("xmp", _XMP), ("photoshop", _PHOTOSHOP), ("iptc", _IPTC)):
        data = metadata.first(kind)
        if kind == "iptc" and data is None:
            data = photoshop.iptc_of(metadata.first("photoshop") or b"")
        if data is not None:
            entries.append(Entry(tag, ifd.BYTE if tag == _XMP else ifd.UNDEFINED, data))
    if profile is not None:
        entries.append(Entry(_ICC, ifd.UNDEFINED, profile))
    return entries


def _resolution_entries(resolution: Resolution) -> list[Entry]:
    inch = resolution.unit == "metre"
    sides = resolution.per("cm") if inch else (resolution.x, resolution.y)
    unit = {"inch": 2, "cm": 3, "metre": 3, "": 1}[resolution.unit]
    entries = [Entry(_UNIT, ifd.SHORT, struct.pack("<H", unit))]
    for tag, side in zip((_X, _Y), sides, strict=True):
        side = side.limit_denominator(10**6)
        entries.append(Entry(tag, ifd.RATIONAL, struct.pack("<II", min(side.numerator, 2**32 - 1), side.denominator)))
    return entries


def dressed(encoded: bytes, metadata: Metadata, profile: bytes | None, *, unspecified: bool, linear_dng: bool) -> bytes:
    """Like `dress`, from bytes to bytes."""
    file = io.BytesIO(encoded)
    dress(file, metadata, profile, unspecified=unspecified, linear_dng=linear_dng)
    return file.getvalue()
