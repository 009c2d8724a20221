"""Linear DNG: a developed camera raw file as scene-linear samples, which raw editors open like the raw file.

A DNG is a TIFF with more tags (Adobe, "Digital Negative Specification" 1.4). Its camera colours are linear Rec. 2020,
in which the camera's white balance is neutral.
"""

import struct

import numpy as np

from kbnet.errors import InvalidInputError, UnsupportedImageError
from kbnet.imaging import ifd, linear
from kbnet.imaging.ifd import Entry
from kbnet.imaging.photo import Photo, Pixels

_PHOTOMETRIC, _MAKE, _MODEL, _LINEAR_RAW = 262, 271, 272, 34892
_VERSION, _BACKWARD_VERSION, _CAMERA, _WHITE, _MATRIX, _NEUTRAL, _ILLUMINANT = (
    *(50706, 50707, 50708, 50717),
    *(50721, 50728, 50778),
)
_D65 = 21  # of EXIF's light sources
_SRATIONAL = 10
# XYZ to linear Rec. 2020, whose white is D65 (ITU-R BT.2020)
_FROM_XYZ = (1.7166512, -0.3556708, -0.2533663, -0.6666844, 1.6164812, 0.0157685, 0.0176399, -0.0427706, 0.9421031)


def check(photo: Photo, bit_depth: int | None) -> None:
    """Refuse a photo that isn't a developed camera raw file.

    Raises:
        UnsupportedImageError: it is another photo.
        InvalidInputError: a bit depth of 8.
    """
    if not photo.developed or photo.bit_depth != 16:
        raise UnsupportedImageError("only camera raw files can be written as DNG; choose another format, such as tif")
    if bit_depth == 8:
        raise InvalidInputError("expected a bit depth of 16 for DNG, got 8")


def samples(pixels: Pixels) -> Pixels:
    """Return the pixels of a developed photo, uint16 with the curve of sRGB, as linear samples."""
    light = linear.decode((np.arange(65536) / 65535).astype(np.float32))
    table = np.rint(np.clip(light.astype(np.float64), 0, 1) * 65535).astype(np.uint16)
    result: Pixels = table[pixels]
    return result


def entries(directory: ifd.Directory) -> list[Entry]:
    """Return the tags that make a TIFF a linear DNG, beside those of this directory."""
    # Another name than the camera's own: its profiles in raw editors are for its own colours.
    camera = " ".join(filter(None, (directory.text(_MAKE), directory.text(_MODEL), "linear Rec. 2020")))
    matrix = b"".join(struct.pack("<ii", round(10_000_000 * value), 10_000_000) for value in _FROM_XYZ)
    return [
        Entry(_PHOTOMETRIC, ifd.SHORT, struct.pack("<H", _LINEAR_RAW)),
        Entry(_VERSION, ifd.BYTE, bytes((1, 4, 0, 0))),
        Entry(_BACKWARD_VERSION, ifd.BYTE, bytes((1, 1, 0, 0))),
        Entry(_CAMERA, ifd.ASCII, camera.encode("ascii", "replace") + b"\0"),
        Entry(_WHITE, ifd.SHORT, struct.pack("<3H", 65535, 65535, 65535)),
        Entry(_MATRIX, _SRATIONAL, matrix),
        Entry(_NEUTRAL, ifd.RATIONAL, struct.pack("<6I", 1, 1, 1, 1, 1, 1)),
        Entry(_ILLUMINANT, ifd.SHORT, struct.pack("<H", _D65)),
    ]
