"""The metadata that a container parser collects from an image file."""

import struct
from dataclasses import dataclass, field

from kbnet.imaging.photo import Block, Resolution, Tail

RAW_DATA = "the camera's raw data"
"""The extra of camera raw files. No note says that it isn't kept, since one says that the photo was developed."""

MALFORMED = (struct.error, LookupError, ValueError, ArithmeticError)
"""Exceptions of parsers that stop at a malformed file."""

_MOST_BLOCKS = 20_000
_LEAST_ROOM = 64 << 20  # bytes
# An honest file has each block once, some of them again in EXIF. More is needed only by blocks that are packed, or that
# are all at the same place.
_ROOM_PER_BYTE = 4


@dataclass
class Found:
    """Metadata of a file, collected by one of the parsers in this package.

    Attributes:
        blocks: as in `kbnet.imaging.Metadata`, but with EXIF and XMP as stored in the file.
        resolution: resolution from the format's own fields, or None.
        notes: one line for each thing that is dropped whatever the output format.
        extras: further images, videos and sounds in the file.
        tail: those that follow a JPEG, if a JPEG result can contain them all.
        orientation: EXIF orientation, 1 to 8, from the format's own tag; 0 if it has none.
        page: for a TIFF, index of the page with the main image.
        pages: for a TIFF, number of pages that aren't reduced copies or masks of another; 0 if unknown.
        room: bytes that blocks may still take; see `of_file`.
        unspecified_channel: whether the file declares its extra channel as something other than alpha.
    """

    blocks: list[Block] = field(default_factory=list)
    resolution: Resolution | None = None
    notes: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    orientation: int = 0
    page: int = 0
    pages: int = 0
    unspecified_channel: bool = False
    tail: Tail | None = None
    room: int = _LEAST_ROOM

    @classmethod
    def of_file(cls, size: int) -> "Found":
        """Return an empty collection with room for the metadata of a file of this many bytes."""
        return cls(room=max(_LEAST_ROOM, _ROOM_PER_BYTE * size))

    def take(self, size: int) -> None:
        """Count bytes that were copied from the file or unpacked.

        Raises:
            ValueError: there are so many that the file is likely malicious.
        """
        self.room -= size
        if self.room < 0:
            raise ValueError("too many bytes in blocks")

    def add(self, kind: str, data: bytes, name: str = "", code: int = 0) -> None:
        """Add a block.

        Raises:
            ValueError: there are so many blocks, or such long ones, that the file is likely malicious.
        """
        self.take(len(data))
        if len(self.blocks) >= _MOST_BLOCKS:
            raise ValueError("too many blocks")
        self.blocks.append(Block(kind, data, name, code))

    def first(self, kind: str) -> bytes | None:
        """Return the data of the first block of a kind, or None."""
        return next((block.data for block in self.blocks if block.kind == kind), None)
