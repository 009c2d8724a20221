"""How each output format handles each kind of metadata: one table, and the conversions in it.

    metadata of a file --fit--> metadata that a format's writer stores as is, and a note on each loss

To add a format, add a parser in `containers` and a column here.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from kbnet.imaging import exif, icc, ifd, photoshop, xmp
from kbnet.imaging.containers import jpeg, png
from kbnet.imaging.photo import Block, Metadata

NAMES = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "webp": "WebP", "avif": "AVIF", "heic": "HEIC"}
# JPEG segments hold 65533 bytes, minus the name at their start.
_LONGEST_EXIF, _LONGEST_XMP = 65527, 65502
_LONGEST_PROFILE = 255 * 65519


class Rule(StrEnum):
    """How a format handles a kind of metadata: kept as is, converted, or dropped with a note."""

    KEPT = "kept"
    CONVERTED = "converted"
    NOTED = "noted"


_K, _C, _N = Rule.KEPT, Rule.CONVERTED, Rule.NOTED


@dataclass(frozen=True)
class Kind:
    """A kind of metadata.

    Attributes:
        title: its name in the documentation.
        rules: rules for PNG, JPEG, TIFF, WebP and AVIF, in this order. HEIC has the structure and rules of AVIF.
        lost: its name in notes.
        why: reason given in notes when it is lost, if the format isn't the reason.
    """

    title: str
    rules: tuple[Rule, Rule, Rule, Rule, Rule]
    lost: str
    why: str = ""

    def rule(self, format: str) -> Rule:
        """Return the rule for a format, by its canonical name."""
        return self.rules[list(NAMES).index("avif" if format == "heic" else format)]


_STALE = "it describes the unrestored image"
KINDS = {
    "exif": Kind("EXIF: camera, exposure, position, maker notes", (_K, _K, _C, _K, _K), "EXIF"),
    "xmp": Kind("XMP", (_K, _K, _K, _K, _K), "XMP"),
    "extended-xmp": Kind("extended XMP", (_C, _K, _C, _C, _C), "extended XMP"),
    "photoshop": Kind(
        "Photoshop image resources with IPTC captions",
        (_C, _K, _K, _N, _N),
        "the IPTC caption block with Photoshop resources",
    ),
    "iptc": Kind("IPTC captions on their own", (_C, _C, _K, _N, _N), "the IPTC caption block"),
    "comment": Kind("JPEG comments", (_C, _K, _C, _N, _N), "the JPEG comment"),
    "text": Kind("PNG text: author, description, parameters", (_K, _C, _C, _N, _N), "PNG text"),
    "colour": Kind("gAMA, cHRM, cICP or nclx colour without a profile", (_K, _C, _C, _C, _C), "the colour tag"),
    "chunk": Kind("other PNG chunks that are standard or marked as safe to copy", (_K, _N, _N, _N, _N), "PNG's"),
    "dependent-chunk": Kind("PNG chunks marked as unsafe to copy", (_N, _N, _N, _N, _N), "the PNG chunk", _STALE),
    "segment": Kind("other JPEG segments", (_N, _K, _N, _N, _N), "the JPEG segment"),
    "coding-extension": Kind("JPEG XT and JPEG-HDR", (_N, _N, _N, _N, _N), "the JPEG coding extension", _STALE),
    "tag": Kind("other TIFF tags: ImageJ, OME, GDAL, private ones", (_N, _N, _K, _N, _N), "the TIFF tag"),
    "geo-tag": Kind("GeoTIFF tags", (_N, _N, _K, _N, _N), "the GeoTIFF tag"),
    "riff-chunk": Kind("other WebP chunks", (_N, _N, _N, _K, _N), "the WebP chunk"),
    "content-credentials": Kind(
        "content credentials (C2PA)", (_N, _N, _N, _N, _N), "content credentials (C2PA)", _STALE
    ),
}
"""A rule for each kind of block and each format."""

# Standard PNG keywords, and the TIFF tags with the same meaning.
_KEYWORD_TAGS = {"title": 269, "description": 270, "software": 305, "author": 315, "copyright": 33432}
_DESCRIPTION = 270
_TAGS = {
    270: "a second description",
    301: "transfer function",
    318: "white point",
    319: "primaries",
    42112: "GDAL metadata",
    42113: "GDAL no-data value",
    50838: "lengths of the ImageJ metadata",
    50839: "ImageJ metadata",
}


@dataclass
class _Fitting:
    """State of a conversion: the source metadata, and what has been decided so far."""

    format: str
    source: Metadata
    blocks: list[Block] = field(default_factory=list)
    lost: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def keep(self, block: Block) -> None:
        self.blocks.append(block)

    def lose(self, block: Block, why: str = "") -> None:
        """Record a block as lost. Blocks of the same kind share a note."""
        self.lost.setdefault((block.kind, why), []).append(_which(block))


def fit(metadata: Metadata, format: str, *, bit_depth: int, gray: bool) -> tuple[Metadata, tuple[str, ...]]:
    """Convert metadata to what a format's writer accepts.

    `bit_depth` and `gray` describe the output image. Metadata that already fits is unchanged.

    Returns:
        The converted metadata, and one line for each kind that is lost.
    """
    fitting = _Fitting(format, metadata)
    for block in metadata.blocks:
        kind = KINDS[block.kind]
        rule = kind.rule(format)
        if rule is Rule.NOTED:
            fitting.lose(block, kind.why)
        elif rule is Rule.CONVERTED:
            _CONVERSIONS[block.kind](fitting, block)
        elif format == "jpeg" and block.kind == "photoshop":
            _convert_captions(fitting, block)  # joins them with separate captions
        else:
            fitting.keep(block)
    if format == "jpeg":
        _fit_segments(fitting)
    if format == "png":
        _fit_chunks(fitting, bit_depth, gray=gray)
    notes = fitting.notes + [_note(kind, why, names, format) for (kind, why), names in fitting.lost.items()]
    notes = list(dict.fromkeys(notes))
    resolution = metadata.resolution
    if resolution is not None and format in ("webp", "avif", "heic"):
        if not _exif_has_resolution(metadata):
            notes.append(f"the resolution ({resolution}) is not kept in {NAMES[format]}")
        resolution = None
    return Metadata(tuple(fitting.blocks), resolution), tuple(notes)


def _which(block: Block) -> str:
    if block.kind == "text":
        return printable_key(block)
    if block.kind == "tag" and int(block.name) in _TAGS:
        return f"{block.name} ({_TAGS[int(block.name)]})"
    if block.kind == "chunk":
        return f"{png.WORDS[block.name]} ({block.name})" if block.name in png.WORDS else f"chunk {block.name}"
    return block.name


def printable_key(block: Block) -> str:
    """Return the keyword of a text block, printable and at most 40 characters long."""
    key = block.data.split(b"\0", 1)[0].decode("latin-1")
    return "".join(c for c in key if c.isprintable())[:40]


def _note(kind: str, why: str, names: list[str], format: str) -> str:
    lost = KINDS[kind].lost
    named = sorted({name for name in names if name})
    many = len(named) > 1
    shown = ", ".join(named[:8]) + (" ..." if len(named) > 8 else "")
    if kind == "text":
        lost = f"{lost} ({shown})"
    elif kind == "chunk":
        lost = f"{lost} {shown}"
    elif kind in ("tag", "geo-tag", "segment", "riff-chunk", "dependent-chunk", "colour"):
        lost = f"{lost}{'s' if many else ''} {shown}"
    verb = "are" if (many and kind != "text") or kind == "content-credentials" else "is"
    if why:
        return f"{lost} {verb} not kept: {why}"
    return f"{lost} {verb} not kept in {NAMES[format]}"


def _exif_has_resolution(metadata: Metadata) -> bool:
    found = exif.directory_of(metadata.first("exif") or b"")
    return found is not None and exif.RESOLUTION_TAGS[0] in found[1].entries


def _convert_exif(fitting: _Fitting, block: Block) -> None:
    """Mark the block as moved: a TIFF spreads it over its directories, which breaks offsets in maker notes."""
    if block.name != exif.MOVED and exif.has_maker_note(block.data):
        fitting.notes.append(exif.MOVED_NOTE)
    fitting.keep(replace(block, name=exif.MOVED))


def _convert_extended(fitting: _Fitting, block: Block) -> None:
    """Merge the extension into the main packet. Only JPEG has to keep them separate."""
    for index, main in enumerate(fitting.blocks):
        if main.kind == "xmp":
            joined = xmp.merged(main.data, block.data)
            if joined is not None:
                fitting.blocks[index] = Block("xmp", joined)
                return
    fitting.lose(block)


def _convert_captions(fitting: _Fitting, block: Block) -> None:
    """Merge Photoshop resources and separate IPTC captions: TIFF often has the same captions in both."""
    resources = b"".join(one.data for one in fitting.source.all("photoshop"))
    if photoshop.iptc_of(resources) is None:
        resources += b"".join(photoshop.of_iptc(one.data) for one in fitting.source.all("iptc")[:1])
    settled = Block("photoshop", resources) if fitting.format == "jpeg" else png.raw_profile_block("iptc", resources)
    if settled not in fitting.blocks:
        fitting.keep(settled)


def _convert_comment(fitting: _Fitting, block: Block) -> None:
    text = _decoded(block.data)
    if fitting.format == "png":
        fitting.keep(png.text_block("Comment", text))
    else:
        _put_tag(fitting, block, _DESCRIPTION, text)


def _decoded(data: bytes) -> str:
    raw = data.rstrip(b"\0")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _convert_text(fitting: _Fitting, block: Block) -> None:
    found = png.text_of(block)
    if found is None:
        fitting.lose(block, "it is damaged")
        return
    keyword, text = found
    if fitting.format == "jpeg":
        line = (text if keyword == "Comment" else f"{keyword}: {text}").encode("utf-8", "replace")
        if len(line) <= jpeg.LONGEST:
            fitting.keep(Block("comment", line))
        else:
            fitting.lose(block)
        return
    tag = _KEYWORD_TAGS.get(keyword.lower(), _DESCRIPTION if keyword == "Comment" else 0)
    if tag:
        _put_tag(fitting, block, tag, text)
    else:
        fitting.lose(block)


def _put_tag(fitting: _Fitting, block: Block, tag: int, text: str) -> None:
    """Store a text as a TIFF tag, unless the tag already exists."""
    taken = any(
        other.kind == "tag" and other.name == str(tag) for other in fitting.source.blocks + tuple(fitting.blocks)
    )
    for other in fitting.source.all("exif"):
        found = exif.directory_of(other.data)
        taken |= found is not None and tag in found[1].entries
    if taken:
        fitting.lose(block)
    else:
        fitting.keep(Block("tag", ifd.ascii_entry(tag, text).data, str(tag), ifd.ASCII))


def _drop(fitting: _Fitting, block: Block) -> None:
    """Drop a colour tag, which has already been converted to a profile; see `profile_of`."""


_CONVERSIONS: dict[str, Callable[[_Fitting, Block], None]] = {
    "exif": _convert_exif,
    "extended-xmp": _convert_extended,
    "photoshop": _convert_captions,
    "iptc": _convert_captions,
    "comment": _convert_comment,
    "text": _convert_text,
    "colour": _drop,
}


def _fit_segments(fitting: _Fitting) -> None:
    """Handle blocks that are too long for one JPEG segment: split XMP, drop EXIF."""
    for block in list(fitting.blocks):
        if block.kind == "exif" and len(block.data) > _LONGEST_EXIF:
            fitting.blocks.remove(block)
            fitting.lose(block, "JPEG is limited to 64 kB of it")
        elif block.kind == "xmp" and len(block.data) > _LONGEST_XMP:
            fitting.blocks.remove(block)
            if not xmp.is_well_formed(block.data) or any(one.kind == "extended-xmp" for one in fitting.blocks):
                fitting.lose(block, "JPEG is limited to 64 kB of it, and it can't be split")
                continue
            main, extension = xmp.split(block.data)
            guid = xmp.extension_guid(main) or b""
            fitting.blocks += [Block("xmp", main), Block("extended-xmp", extension, guid.decode("ascii"))]


def _fit_chunks(fitting: _Fitting, bit_depth: int, *, gray: bool) -> None:
    """Drop chunks whose content doesn't match the output samples, and colours that aren't PNG's."""
    for block in list(fitting.blocks):
        if block.kind == "colour" and block.name not in png.COLOURS:
            fitting.blocks.remove(block)  # already converted to a profile; see `profile_of`
        if block.kind != "chunk":
            continue
        misfit = block.name == "bKGD" and (block.code != bit_depth or len(block.data) != (2 if gray else 6))
        if misfit or block.name in ("sBIT", "hIST"):
            fitting.blocks.remove(block)
            fitting.lose(block, "it does not match the samples of the restored image")


def profile_of(metadata: Metadata, channels: int, format: str) -> tuple[bytes | None, tuple[str, ...]]:
    """Return a profile equivalent to an image's colour tags, for formats without them, or None and a note.

    As the PNG standard requires, the first of cICP, nclx, sRGB, and gAMA with cHRM takes precedence.
    """
    tags = {block.name: block.data for block in metadata.all("colour")}
    codes = tags.get("cICP", tags.get("nclx"))
    if "cICP" in tags and len(tags["cICP"]) == 4:
        primaries, transfer = tags["cICP"][0], tags["cICP"][1]
    elif "nclx" in tags and len(tags["nclx"]) == 4:
        primaries, transfer = struct.unpack(">HH", tags["nclx"])
    elif codes is None and "sRGB" not in tags:
        return _from_gamma(tags, channels), ()
    else:
        return None, ()
    profile = icc.from_codes(primaries, transfer, channels)
    if profile is None and not icc.means_srgb(primaries, transfer):
        return None, (
            f"the colour tag (primaries {primaries}, transfer {transfer}) is not kept in {NAMES[format]}; "
            "colours are interpreted as sRGB",
        )
    return profile, ()


def _from_gamma(tags: dict[str, bytes], channels: int) -> bytes | None:
    gamma = struct.unpack(">I", tags["gAMA"])[0] / 1e5 if len(tags.get("gAMA", b"")) == 4 else None
    points: icc.Chromaticities | None = None
    if len(tags.get("cHRM", b"")) == 32:
        values = [value / 1e5 for value in struct.unpack(">8I", tags["cHRM"])]
        pairs = [(values[i], values[i + 1]) for i in range(0, 8, 2)]
        if all(0 < x < 1 and 0 < y < 1 for x, y in pairs):
            points = pairs[0], pairs[1], pairs[2], pairs[3]
    if gamma is not None and not 0.1 < gamma < 10:
        gamma = None
    return icc.from_gamma(gamma, points, channels)


def fits_jpeg(profile: bytes) -> bool:
    """Return whether the profile fits into the 255 segments of a JPEG."""
    return len(profile) <= _LONGEST_PROFILE
