"""Camera raw files, developed with LibRaw (rawpy, an extra): the camera's white balance, Rec. 2020, 16 bits.

Rec. 2020 holds almost every colour that a camera records. Developed photos then go through the same steps as others.
"""

import io
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import MissingExtraError, UnsupportedImageError
from kbnet.imaging import icc, linear
from kbnet.imaging._vips import pyvips
from kbnet.imaging.photo import Pixels

NOTE = "developed with the camera's white balance into Rec. 2020"
_SIDEWAYS = (5, 6)  # LibRaw's flips by 90 degrees


@cache
def develops_raw() -> bool:
    """Return whether camera raw files can be read, which needs the extra `raw`."""
    return find_spec("rawpy") is not None


def size(data: bytes, name: str) -> tuple[int, int]:
    """Return the height and width that `develop` gives.

    Raises:
        UnsupportedImageError: the file is damaged, or LibRaw doesn't know the camera.
        MissingExtraError: rawpy is not installed.
    """
    with _failures_of(name), _opened(data) as raw:
        sizes = raw.sizes
    width, height = sizes.iwidth, sizes.iheight
    if sizes.flip in _SIDEWAYS:
        width, height = height, width
    return height, width


def blank(height: int, width: int) -> Any:
    """Return a black libvips image of this size, with the depth and profile that `develop` gives."""
    image = pyvips.Image.black(width, height, bands=3).cast("ushort").copy(interpretation="rgb16")
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", 16)
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile())
    return image


def profile() -> bytes:
    """Return the ICC profile of developed photos: the primaries of Rec. 2020 and the curve of sRGB."""
    made = icc.from_codes(9, 13, 3)
    assert made is not None  # these codes have a profile
    return made


def develop(data: bytes, name: str) -> Pixels:
    """Develop a camera raw file, upright: [H,W,3] uint16, with the curve of sRGB.

    Without noise reduction, sharpening or automatic brightness. Highlights are clipped where a channel is.

    Raises:
        UnsupportedImageError: the file is damaged, or LibRaw doesn't know the camera.
        MissingExtraError: rawpy is not installed.
    """
    with _failures_of(name), _opened(data) as raw:
        import rawpy

        raw.unpack()
        samples = raw.postprocess(
            use_camera_wb=True,
            output_color=rawpy.ColorSpace.Rec2020,
            output_bps=16,
            gamma=(1, 1),
            no_auto_bright=True,
            fbdd_noise_reduction=rawpy.FBDDNoiseReductionMode.Off,
        )
    if samples.shape[2] == 1:
        samples = samples.repeat(3, axis=2)
    light: NDArray[np.float32] = (np.arange(65536) / 65535).astype(np.float32)
    curve = linear.encode(light)
    table = np.rint(np.clip(curve.astype(np.float64), 0, 1) * 65535).astype(np.uint16)
    developed: Pixels = table[samples]
    return developed


def _opened(data: bytes) -> Any:
    try:
        import rawpy
    except ModuleNotFoundError:
        raise MissingExtraError("rawpy", "raw") from None
    raw = rawpy.RawPy()
    try:
        raw.open_buffer(io.BytesIO(data))
    except Exception:
        raw.close()
        raise
    return raw


class _failures_of:  # reads as a phrase
    """Turns LibRaw's errors into one line that names the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, Exception) and type(error).__name__.startswith("LibRaw"):
            told: Any = error.args[0] if error.args else error
            why = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
            raise UnsupportedImageError(
                f"{self._name}: the camera raw file is damaged, or its camera is not supported "
                f"({why.lower().strip(chr(39))}); convert it to DNG or to a 16-bit TIFF"
            ) from None
