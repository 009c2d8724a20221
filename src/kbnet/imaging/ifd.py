"""TIFF image file directories (IFDs), the structure of TIFF files and EXIF blocks: reading and writing as bytes.

    file --read_form, read_directory--> Directory of entries --dump--> bytes for a position in a file

Values are stored in little-endian order, whatever the file's byte order, so that entries can move between files.
"""

import struct
from dataclasses import dataclass, field, replace
from typing import BinaryIO

EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
_POINTERS = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
# An IFD has at most a few hundred entries; more is damage or an attack.
_MAX_ENTRIES = 4096
# For each value type: bytes per value, and bytes of the unit that is byte-swapped.
_SIZES = {1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2), 9: (4, 4)}
_SIZES |= {10: (8, 4), 11: (4, 4), 12: (8, 8), 13: (4, 4), 16: (8, 8), 17: (8, 8), 18: (8, 8)}
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
IFD_TYPES = (13, 18)
"""Value types that are offsets of directories in the file."""


@dataclass(frozen=True)
class Form:
    """How a file stores directories: byte order ("<" or ">"), BigTIFF or classic, and offset of the first one."""

    order: str
    big: bool
    first: int

    @property
    def inline(self) -> int:
        """Bytes of a value that can be stored inside its entry."""
        return 8 if self.big else 4


@dataclass(frozen=True)
class Entry:
    """A tag: type of its values, their bytes in little-endian order, and their offset in the source file."""

    tag: int
    kind: int
    data: bytes
    at: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        """The values if they have an unsigned integer type; else an empty tuple."""
        return self.first(len(self.data))

    def first(self, most: int) -> tuple[int, ...]:
        """Return the first values, at most so many: as numbers, they take several times their bytes."""
        letter = _INTEGERS.get(self.kind)
        if letter is None:
            return ()
        return struct.unpack_from(f"<{min(most, len(self.data) // struct.calcsize(letter))}{letter}", self.data)


@dataclass
class Directory:
    """Entries by tag, the directories that EXIF, GPS and interoperability tags point to, and the next one's offset.

    If a tag occurs more than once, the first is in `entries` and the others are in `repeated`.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, "Directory"] = field(default_factory=dict)
    next: int = 0
    next_at: int = 0
    damaged: list[int] = field(default_factory=list)
    repeated: list[Entry] = field(default_factory=list)

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag, or the default."""
        entry = self.entries.get(tag)
        return next(iter(entry.first(1)), default) if entry is not None else default

    def text(self, tag: int) -> str:
        """Return the text of an ASCII tag, decoded as UTF-8 if possible, else Latin-1; empty if there is none."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind != ASCII:
            return ""
        raw = entry.data.split(b"\0", 1)[0]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")


def read_form(file: BinaryIO) -> Form | None:
    """Read the TIFF header. Returns None if the file isn't a TIFF structure."""
    file.seek(0)
    head = file.read(16)
    if head[:4] in (b"II*\0", b"MM\0*") and len(head) >= 8:
        order = "<" if head[:1] == b"I" else ">"
        return Form(order, big=False, first=struct.unpack_from(order + "I", head, 4)[0])
    if head[:8] in (b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0") and len(head) == 16:
        order = "<" if head[:1] == b"I" else ">"
        return Form(order, big=True, first=struct.unpack_from(order + "Q", head, 8)[0])
    return None


def read_directory(
    file: BinaryIO, form: Form, at: int, *, children: bool = True, longest: int | None = None
) -> Directory | None:
    """Read the directory at an offset in the file. Returns None if it can't be read.

    Values that extend beyond the file, or that are larger than the file in total, are skipped and their tags listed in
    `damaged`. `children` tells whether to also read the directories that entries point to. Values longer than `longest`
    bytes are skipped.
    """
    size = file.seek(0, 2)
    if not 8 <= at < size:
        return None
    file.seek(at)
    counter, width = ("Q", 20) if form.big else ("H", 12)
    counted = file.read(struct.calcsize(counter))
    if len(counted) < struct.calcsize(counter):
        return None
    (count,) = struct.unpack(form.order + counter, counted)
    if count > _MAX_ENTRIES:
        return None
    body = file.read(width * count)
    if len(body) < width * count:
        return None
    start = at + struct.calcsize(counter)
    directory, total = Directory(next_at=start + width * count), 0
    for index in range(count):
        tag, kind, number = struct.unpack_from(form.order + ("HHQ" if form.big else "HHI"), body, width * index)
        place = width * index + (12 if form.big else 8)
        length = number * _SIZES.get(kind, (0, 0))[0]
        value_at = start + place
        if length > form.inline:
            (value_at,) = struct.unpack_from(form.order + ("Q" if form.big else "I"), body, place)
        if longest is not None and length > longest:
            continue
        total += length
        if kind not in _SIZES or value_at + length > size or total > size:
            directory.damaged.append(tag)
            continue
        file.seek(value_at)
        data = swapped(file.read(length), kind) if form.order == ">" else file.read(length)
        entry = Entry(tag, kind, data, value_at)
        if directory.entries.setdefault(tag, entry) is not entry:
            directory.repeated.append(entry)
    file.seek(directory.next_at)
    following = file.read(8 if form.big else 4)
    if len(following) == (8 if form.big else 4):
        (directory.next,) = struct.unpack(form.order + ("Q" if form.big else "I"), following)
    if children:
        _read_children(file, form, directory)
    return directory


def _read_children(file: BinaryIO, form: Form, directory: Directory) -> None:
    for tag in _POINTERS:
        if tag in directory.entries:
            # only the interoperability directory is nested deeper, and it has no children
            child = read_directory(file, form, directory.number(tag), children=False)
            if child is not None and tag != INTEROP_IFD:
                _read_children_once(file, form, child)
            if child is not None:
                directory.children[tag] = child
            else:
                directory.damaged.append(tag)


def _read_children_once(file: BinaryIO, form: Form, directory: Directory) -> None:
    if INTEROP_IFD in directory.entries:
        child = read_directory(file, form, directory.number(INTEROP_IFD), children=False)
        if child is not None:
            directory.children[INTEROP_IFD] = child


def swapped(data: bytes, kind: int) -> bytes:
    """Return values of a type in the other byte order."""
    unit = _SIZES[kind][1]
    if unit == 1:
        return data
    whole = len(data) // unit * unit
    turned = bytearray(data)
    for position in range(unit):
        turned[position:whole:unit] = data[unit - 1 - position : whole : unit]
    return bytes(turned)


def dump(directory: Directory, at: int, form: Form, *, following: int = 0) -> bytes:
    """Serialise the directory with its values and children, to be written at the even offset `at` of a file."""
    entries = [entry for tag, entry in directory.entries.items() if tag not in _POINTERS] + directory.repeated
    rows: list[tuple[int, Entry | Directory]] = [(entry.tag, entry) for entry in entries]
    rows = sorted(rows + list(directory.children.items()), key=lambda row: row[0])
    width, place = (20, "Q") if form.big else (12, "I")
    counter = "Q" if form.big else "H"
    head_size = struct.calcsize(counter) + width * len(rows) + form.inline
    head, values = bytearray(struct.pack(form.order + counter, len(rows))), bytearray(head_size % 2)
    for tag, row in rows:
        where = at + head_size + len(values)
        if isinstance(row, Directory):
            kind, count = (LONG8 if form.big else LONG), 1
            values += dump(row, where, form)
            inline = struct.pack(form.order + place, where)
        else:
            kind = row.kind
            data = swapped(row.data, kind) if form.order == ">" else row.data
            count = len(data) // _SIZES[kind][0]
            inline = data
            if len(data) > form.inline:
                inline = struct.pack(form.order + place, where)
                values += data
        values += bytes(len(values) % 2 ^ head_size % 2)
        head += struct.pack(form.order + ("HHQ" if form.big else "HHI"), tag, kind, count)
        head += inline.ljust(form.inline, b"\0")
    head += struct.pack(form.order + place, following)
    return bytes(head + values)


def ascii_entry(tag: int, text: str) -> Entry:
    """Return a text as an ASCII entry, encoded as UTF-8, which current readers expect."""
    return Entry(tag, ASCII, text.encode("utf-8", "replace") + b"\0")


def without(directory: Directory, tags: frozenset[int]) -> Directory:
    """Return the directory without some of its entries."""
    return replace(directory, entries={tag: entry for tag, entry in directory.entries.items() if tag not in tags})
