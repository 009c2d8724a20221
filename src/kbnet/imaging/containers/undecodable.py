"""Distinguishes intact TIFF and JPEG files that libvips can't decode from damaged ones, by their headers."""

from typing import BinaryIO

from kbnet.imaging import ifd
from kbnet.imaging.containers import tiff
from kbnet.imaging.containers.scanning import EOI, segments
from kbnet.imaging.ifd import Directory

# TIFF compressions that the decoder supports.
_KNOWN = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50001}
_NAMES = {
    6: "old-style JPEG",
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT",
    32771: "word-aligned runs",
    32809: "ThunderScan",
    32895: "Kodak DCS",
    32908: "Pixar film",
    32909: "Pixar log",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 258, 259, 262, 277
_OFFSETS, _LENGTHS = (273, 324), (279, 325)


# JPEG frame types other than baseline and progressive Huffman coding.
_FRAMES = {
    0xC3: "lossless coding",
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical coding"),
    0xCB: "lossless arithmetic coding",
    0xF7: "JPEG-LS coding",
}


def why_not(file: BinaryIO, format: str) -> str | None:
    """Return why an intact file can't be decoded, such as "a TIFF with JPEG 2000 compression"; None if unknown."""
    if format == "tiff":
        return _why_no_tiff(file)
    return _why_no_jpeg(file) if format == "jpeg" else None


def _why_no_jpeg(file: BinaryIO) -> str | None:
    file.seek(0)
    data = file.read()
    kind = None
    for marker, start, _ in segments(data):
        if marker in _FRAMES:
            kind = f"a JPEG with {_FRAMES[marker]}"
        elif marker in (0xC0, 0xC1, 0xC2) and data[start] != 8:
            kind = f"a JPEG with {data[start]}-bit samples"
        elif marker == EOI:
            return kind
    return None


def _why_no_tiff(file: BinaryIO) -> str | None:
    form = ifd.read_form(file)
    pages = tiff.pages(file, form) if form else []
    at = next((page.at for page in pages if page.is_picture), 0)
    directory = ifd.read_directory(file, form, at, children=False) if form else None
    if directory is None or not _is_whole(directory, file.seek(0, 2)):
        return None
    compression = directory.number(_COMPRESSION, 1)
    if compression not in _KNOWN:
        name = _NAMES.get(compression)
        return f"a TIFF with {name} compression" if name else f"a TIFF with compression {compression}"
    return _layout(directory)


def _layout(directory: Directory) -> str | None:
    """Return the unsupported sample layout of a TIFF, or None."""
    entry = directory.entries.get(_BITS)
    bits = set(entry.numbers) if entry is not None else {1}
    samples = directory.number(_SAMPLES, 1)
    if len(bits) > 1:
        return "a TIFF with channels of different bit depths"
    depth = next(iter(bits), 1)
    if depth not in (8, 16) and not (depth in (1, 2, 4, 8) and samples == 1):
        return f"a TIFF with {depth}-bit samples"
    if directory.number(_PHOTOMETRIC) in (4, 32803, 32844, 32845, 34892):
        return "a TIFF with this colour space"
    if directory.number(_PHOTOMETRIC) == 6 and directory.number(_COMPRESSION, 1) != 7:
        return "a TIFF with YCbCr colours and no JPEG compression"
    return None


def _is_whole(directory: Directory, size: int) -> bool:
    """Return whether everything that the directory points to is inside the file."""
    if directory.damaged:
        return False
    for at, length in zip(_OFFSETS, _LENGTHS, strict=True):
        places, lengths = directory.entries.get(at), directory.entries.get(length)
        if places is not None and lengths is not None:
            pairs = zip(places.numbers, lengths.numbers, strict=False)
            return bool(places.numbers) and all(place + count <= size for place, count in pairs)
    return False
