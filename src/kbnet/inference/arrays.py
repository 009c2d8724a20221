"""Converts accepted images to float32 channels, and results back to the same kind, shape and bit depth.

Nothing here holds a whole image as float32: pixels are converted for each tile, and results are rounded to their own
type as soon as they are final.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, NonFiniteInputError
from kbnet.imaging.cmyk import cmyk_to_srgb
from kbnet.imaging.icc import icc_channels
from kbnet.inference.samples import ArraySamples, Range, Samples, TensorSamples

HIGHEST_MEDIAN = 4.0
"""Of floats without a range: scene-linear images exceed 1 by far, but not in half of their values."""

# Entries of a PIL image's info that remain true of the restored pixels.
_KEPT_INFO = ("icc_profile", "exif", "dpi", "xmp", "comment", "photoshop")

_PIECE = 1 << 18  # values checked at a time


@dataclass(frozen=True)
class Accepted:
    """An image, or a batch of images, as the Restorer takes it.

    Attributes:
        images: one for each image of a batch, all of one size and number of channels.
        result: returns the same kind of image, once the result of each of `images` is written.
    """

    images: list[Samples]
    result: Callable[[], Any]


def accept(image: Any, value_range: Range | None = None) -> Accepted:
    """Open an image for reading float32 values nominally in [0,1], and create its result.

    Args:
        image: what `Restorer.__call__` lists.
        value_range: black and white in the image; by default 0 and 1 for floats, the whole range for integers.

    Raises:
        NonFiniteInputError: the image holds NaN or infinity.
        InvalidInputError: any other kind, shape or dtype; floats whose median exceeds 4 without a range.
    """
    if value_range is not None:
        value_range = _checked_range(value_range)
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    if torch is not None and isinstance(image, torch.Tensor):
        return _from_tensor(image, value_range)
    if isinstance(image, np.ma.MaskedArray):
        raise InvalidInputError(
            "expected an array without a mask, which restoring would ignore; pass image.filled(...)"
        )
    if isinstance(image, np.ndarray):
        return _from_array(image, value_range)
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return _from_pil(image, value_range)
    raise InvalidInputError(
        f"expected a PIL image, a numpy array or a torch tensor, got {type(image).__name__}; "
        "for a file, use `kbnet restore` or kbnet.imaging.read_photo(path).pixels"
    )


def _checked_range(given: Any) -> Range:
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        raise InvalidInputError(f"expected a value_range of two numbers such as (0, 255), got {given!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidInputError(f"expected a value_range of two finite numbers, the lower one first; got {given!r}")
    return low, high


def _check_values(pieces: Iterator[NDArray[np.float32]], value_range: Range | None) -> None:
    """Refuse values that are not finite, and floats of 0 to 255 that would be taken for 0 to 1."""
    count = high = 0
    for piece in pieces:
        if not bool(np.isfinite(piece).all()):
            raise NonFiniteInputError(
                "expected finite float32 values, got NaN or infinity; replace them before restoring"
            )
        count += piece.size
        high += int((piece > HIGHEST_MEDIAN).sum())
    # If more than half of the values exceed the limit, so does the median; this needs no sorting.
    if value_range is None and 2 * high > count:
        raise InvalidInputError(
            f"expected floats nominally in [0,1], got a median above {HIGHEST_MEDIAN:g}; if white is 255, pass "
            "value_range=(0, 255); if these values are intended, pass value_range=(0, 1)"
        )


def _from_tensor(image: Any, value_range: Range | None) -> Accepted:
    import torch

    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point() or 0 in image.shape:
        raise InvalidInputError(
            f"expected a floating-point tensor [B,1,H,W] or [B,3,H,W], got {image.dtype} {list(image.shape)}"
        )
    batch = image.detach()
    step = max(_PIECE // (batch.shape[1] * batch.shape[3]), 1)
    _check_values((part.float().cpu().numpy() for one in batch for part in one.split(step, 1)), value_range)
    limits = value_range or (0.0, 1.0)
    # Created outside of inference mode: a tensor like any other, which the caller may write to.
    with torch.inference_mode(False):
        out = torch.empty_like(batch, memory_format=torch.contiguous_format)
    return Accepted([TensorSamples(one, to, limits) for one, to in zip(batch, out, strict=True)], lambda: out)


def _from_array(image: NDArray[Any], value_range: Range | None) -> Accepted:
    shape = image.shape
    if 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        hint = "; pass alpha separately" if len(shape) == 3 and shape[2] == 4 else ""
        raise InvalidInputError(f"expected an array [H,W] or [H,W,3], got {list(shape)}{hint}")
    whole = image.dtype.newbyteorder("=") in (np.uint8, np.uint16)  # TIFF and FITS store either byte order
    if not whole and image.dtype.kind != "f":
        raise InvalidInputError(
            f"expected uint8, uint16 or floating-point values, got {image.dtype}; convert them first"
        )
    if not whole:
        _check_values(_float_pieces(image), value_range)
    limits = value_range or (0.0, float(np.iinfo(image.dtype).max) if whole else 1.0)
    out = np.empty(shape, image.dtype)
    channels = [array[:, :, None] if array.ndim == 2 else array for array in (image, out)]
    return Accepted([ArraySamples(channels[0], channels[1], limits)], lambda: out)


def _float_pieces(image: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    step = max(_PIECE // (image.size // len(image)), 1)
    for top in range(0, len(image), step):
        with np.errstate(over="ignore"):  # float64 values beyond float32's range become infinite, and are refused
            piece = image[top : top + step].astype(np.float32)
        yield piece


def _from_pil(image: Any, value_range: Range | None) -> Accepted:
    """Modes L, RGB and 16-bit gray unchanged; alpha is kept separately; other modes become RGB, LA or RGBA first."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a JPEG with previews: the photo comes first
        raise InvalidInputError("expected a still image, got an animation; restore its frames separately")
    plain, info = _plain(image)
    alpha = plain.getchannel("A") if plain.mode in ("LA", "RGBA") else None
    opaque = plain.convert(plain.mode[:-1]) if alpha is not None else plain
    accepted = _from_array(np.asarray(opaque), value_range)

    def to_pil() -> Any:
        from PIL import Image  # optional, but installed: the caller passed one of its images

        array = accepted.result()
        restored = Image.fromarray(array.astype(array.dtype.newbyteorder("="), copy=False))
        if alpha is not None:
            restored.putalpha(alpha)
        restored.info.update(info)
        return restored

    return Accepted(accepted.images, to_pil)


def _plain(image: Any) -> tuple[Any, dict[str, Any]]:
    """A PIL image in a mode that is restored (L, LA, RGB, RGBA or 16-bit gray), and the info that it keeps."""
    from PIL import Image

    mode, info = image.mode, {key: image.info[key] for key in _KEPT_INFO if key in image.info}
    keyed = "transparency" in image.info or (mode == "P" and image.palette is not None and image.palette.mode == "RGBA")
    if (mode[0] in "IF" and not mode.startswith("I;16")) or (mode.startswith("I;16") and keyed):
        # Pillow would clip everything above 255, and has no mode for 16-bit gray with alpha.
        what = f"mode {mode} with a transparent value" if mode.startswith("I;16") else f"mode {mode}"
        raise InvalidInputError(
            f"expected an 8-bit PIL image or one of mode I;16, got {what}; "
            "pass its values as a NumPy array: uint16, or floating-point in [0,1]"
        )
    if mode in ("LA", "RGBA") or mode.startswith("I;16") or (mode in ("L", "RGB") and not keyed):
        return image, info
    profile = info.get("icc_profile")
    if mode == "CMYK" and profile:
        # The profile defines what these inks look like. The result is sRGB, and its new profile says so.
        array, info["icc_profile"] = cmyk_to_srgb(np.asarray(image), profile)
        return Image.fromarray(array), info
    if keyed:
        target = "LA" if mode in ("1", "L") else "RGBA"
    else:
        target = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode, "RGB")
    try:
        converted = image.convert(target)
    except (ValueError, OSError) as error:
        raise InvalidInputError(
            f"expected a PIL image that Pillow can convert to {target}, got mode {mode} ({error}); convert it first"
        ) from None
    if profile and icc_channels(profile) != (1 if target == "LA" else 3):
        del info["icc_profile"]  # it describes channels that no longer exist
    return converted, info
