"""Converts CMYK to sRGB with the profile that describes the inks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.imaging._vips import FAILURES, pyvips
from kbnet.imaging.icc import icc_channels


def to_srgb(image: Any, profile: bytes | None) -> tuple[Any, bool]:
    """Convert a CMYK libvips image to sRGB. Also returns whether its own profile was used rather than a generic one."""
    depth = 16 if image.format == "ushort" else 8
    options = {"input_profile": "cmyk", "intent": "relative", "black_point_compensation": True, "depth": depth}
    own = profile is not None and icc_channels(profile) == 4
    return image.icc_transform("srgb", embedded=own, **options), own


def cmyk_to_srgb(pixels: NDArray[np.uint8], profile: bytes) -> tuple[NDArray[np.uint8], bytes]:
    """Convert inks [H,W,4] uint8, 255 = full coverage, to sRGB [H,W,3] uint8. Also returns the sRGB profile.

    If the profile is damaged or isn't a CMYK profile, a generic one is used.
    """
    height, width = pixels.shape[:2]
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(pixels).data, width, height, 4, "uchar")
    image = image.copy(interpretation="cmyk")
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        done, _ = to_srgb(image, profile)
        data = done.write_to_memory()
    except FAILURES:
        image.remove("icc-profile-data")
        done, _ = to_srgb(image, None)
        data = done.write_to_memory()
    array: NDArray[np.uint8] = np.frombuffer(data, np.uint8).reshape(height, width, 3).copy()
    return array, bytes(done.get("icc-profile-data"))
