"""What a walk through a picture file finds beside the pixels."""

from dataclasses import dataclass, field

from kbnet.imaging.photo import Block, Resolution

_MOST_BLOCKS = 20_000


@dataclass
class Found:
    """Metadata of a file, gathered by one of the walkers of this folder.

    Attributes:
        blocks: as in `kbnet.imaging.Metadata`, EXIF and XMP still as the file has them.
        resolution: where the format itself says it.
        notes: lines on what is left out whatever the result's format.
        extras: pictures, videos and sounds that no result holds.
        orientation: EXIF, 1 to 8, where the format's own tag says it; else 0.
        page: of a TIFF, the one that is the picture.
        pages: of a TIFF, how many are no reduced copies or masks of another; 0 where that is not known.
        unspecified_channel: whether a channel beside the colours is, by the file's word, no transparency.
    """

    blocks: list[Block] = field(default_factory=list)
    resolution: Resolution | None = None
    notes: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    orientation: int = 0
    page: int = 0
    pages: int = 0
    unspecified_channel: bool = False

    def add(self, kind: str, data: bytes, name: str = "", code: int = 0) -> None:
        """One more block.

        Raises ValueError where there are so many that the file is meant to do harm.
        """
        if len(self.blocks) >= _MOST_BLOCKS:
            raise ValueError("too many blocks")
        self.blocks.append(Block(kind, data, name, code))

    def first(self, kind: str) -> bytes | None:
        """The data of the first block of a kind, or None."""
        return next((block.data for block in self.blocks if block.kind == kind), None)
