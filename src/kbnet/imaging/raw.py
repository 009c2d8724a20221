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
from kbnet.imaging import icc, ifd, linear
from kbnet.imaging._vips import pyvips
from kbnet.imaging.photo import Pixels
from kbnet.imaging.sensor import Mosaic, SensorNoise

NOTE = "developed with the camera's white balance into Rec. 2020"
_BAYER = ("RGGB", "GRBG", "GBRG", "BGGR")
_NOISE_PROFILE, _DOUBLE = 51041, 12  # a tag of DNG, and the type of its values
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


def mosaic(data: bytes, name: str) -> Mosaic | None:
    """Return what the sensor recorded; None unless each pixel is red, green or blue in a Bayer pattern.

    Raises:
        UnsupportedImageError, MissingExtraError: as for `develop`.
    """
    with _failures_of(name), _opened(data) as raw:
        raw.unpack()
        found = _layout(raw)
        if found is None:
            return None
        red, black, span = found
        return Mosaic((raw.raw_image_visible.astype(np.float32) - black) / span, red, _told_noise(data))


def develop(data: bytes, name: str, instead: Mosaic | None = None) -> Pixels:
    """Develop a camera raw file, upright: [H,W,3] uint16, with the curve of sRGB.

    Without noise reduction, sharpening or automatic brightness. Highlights are clipped where a channel is.

    Args:
        data: bytes of the file.
        name: of the file, for messages.
        instead: a mosaic to develop in place of the file's, from `mosaic`.

    Raises:
        UnsupportedImageError: the file is damaged, or LibRaw doesn't know the camera.
        MissingExtraError: rawpy is not installed.
    """
    with _failures_of(name), _opened(data) as raw:
        import rawpy

        raw.unpack()
        if instead is not None:
            _replace(raw, instead)
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


def _layout(raw: Any) -> tuple[tuple[int, int], NDArray[np.float32], NDArray[np.float32]] | None:
    """The place of red, and black and white minus black of every pixel; None unless the sensor has a Bayer pattern."""
    import rawpy

    if raw.raw_type != rawpy.RawType.Flat or raw.num_colors != 3 or raw.raw_pattern is None:
        return None
    height, width = raw.raw_image_visible.shape
    corner = raw.raw_colors_visible[:2, :2]
    letters = "".join(chr(raw.color_desc[index]) for index in corner.ravel())
    if raw.raw_pattern.shape != (2, 2) or letters not in _BAYER:
        return None
    black = np.array(raw.black_level_per_channel, np.float32)[corner]
    times = -(-height // 2), -(-width // 2)
    blacks = np.tile(black, times)[:height, :width]
    return divmod(letters.index("R"), 2), blacks, np.maximum(np.float32(raw.white_level) - blacks, 1)


def _replace(raw: Any, instead: Mosaic) -> None:
    found = _layout(raw)
    assert found is not None  # this mosaic came from it
    _, black, span = found
    # Rounded at random: without noise, steps of the sensor's numbers would show in the shadows.
    numbers = instead.signal * span + black + np.random.default_rng(0).random(instead.signal.shape, np.float32)
    raw.raw_image_visible[...] = np.floor(numbers.clip(0, 65535))


def _told_noise(data: bytes) -> SensorNoise | None:
    """The noise of a DNG that tells it: pairs of shot and read noise, for all colours or for each."""
    file = io.BytesIO(data)
    form = ifd.read_form(file)
    directory = None if form is None else ifd.read_directory(file, form, form.first)
    entry = None if directory is None else directory.entries.get(_NOISE_PROFILE)
    if entry is None or entry.kind != _DOUBLE or len(entry.data) % 16 or not entry.data:
        return None
    values = np.frombuffer(entry.data, "<f8").reshape(-1, 2).mean(0)
    if not np.isfinite(values).all() or not 0 < values[0] < 1 or not 0 <= values[1] < 1:
        return None
    return SensorNoise(float(values[0]), float(values[1]))


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
