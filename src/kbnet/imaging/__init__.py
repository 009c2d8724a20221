"""Reading and writing image files: bit depth, colour, alpha, orientation, profiles, metadata.

All decoding and encoding in kbnet happens here.

    file or bytes --read_photo--> Photo --(restore its pixels)--> plan_output, write_photo --> file or bytes

>>> import numpy as np
>>> photo = Photo(np.zeros((2, 3, 3), np.uint16))
>>> again = read_photo(write_photo(photo, None, format="tiff"))
>>> again.format, again.pixels.shape, again.bit_depth
('tiff', (2, 3, 3), 16)
"""

from kbnet.imaging.compression import compress_jpeg
from kbnet.imaging.photo import (
    FORMATS,
    READ_SUFFIXES,
    SUPPORTED_SUFFIXES,
    Block,
    Metadata,
    Photo,
    Pixels,
    Resolution,
    is_readable,
    is_supported,
)
from kbnet.imaging.planning import over_white, plan_output, to_depth
from kbnet.imaging.reading import DEFAULT_MAX_PIXELS, ImageInfo, probe, read_photo
from kbnet.imaging.writing import encode, publish, write_photo

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "READ_SUFFIXES",
    "SUPPORTED_SUFFIXES",
    "Block",
    "ImageInfo",
    "Metadata",
    "Photo",
    "Pixels",
    "Resolution",
    "compress_jpeg",
    "encode",
    "is_readable",
    "is_supported",
    "over_white",
    "plan_output",
    "probe",
    "publish",
    "read_photo",
    "to_depth",
    "write_photo",
]
