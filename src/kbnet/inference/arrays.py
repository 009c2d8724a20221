"""From any accepted image to a batch of float32 channels and back to the same kind, shape and depth."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kbnet.errors import InvalidInputError, NonFiniteInputError
from kbnet.imaging.cmyk import cmyk_to_srgb
from kbnet.imaging.icc import icc_channels

Back = Callable[[Tensor], Any]
Range = tuple[float, float]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

HIGHEST_MEDIAN = 4.0
"""Of floats without a range: scene-linear images reach far above 1, but not in half of their values."""

# What of a PIL image's info still holds for its restored pixels.
_KEPT_INFO = ("icc_profile", "exif", "dpi", "xmp", "comment", "photoshop")


def to_batch(image: Any, value_range: Range | None = None) -> tuple[Tensor, Back]:
    """The image as float32 [B,C,H,W] nominally in [0,1], and the function that turns such a result back into its kind.

    Accepts what `Restorer.__call__` lists. `value_range` is what black and white are in the image; by default 0 and 1
    for floats, and the whole range for integers.

    Raises:
        NonFiniteInputError: NaN or infinity.
        InvalidInputError: any other kind, shape or dtype; floats without a range most of which lie far above 1.
    """
    if value_range is not None:
        value_range = _checked_range(value_range)
    if isinstance(image, Tensor):
        return _from_tensor(image, value_range)
    if isinstance(image, np.ndarray):
        return _from_array(image, value_range)
    if type(image).__module__.partition(".")[0] == "PIL":
        return _from_pil(image, value_range)
    raise InvalidInputError(
        f"expected a PIL image, a numpy array or a torch tensor, got {type(image).__name__}; "
        "for a file use `kbnet restore`, or kbnet.imaging.read_photo(path).pixels"
    )


def _checked_range(given: Any) -> Range:
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        raise InvalidInputError(f"expected a value_range of two numbers such as (0, 255), got {given!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidInputError(f"expected a finite value_range whose first value is the lower, got {given!r}")
    return low, high


def _check_values(values: Tensor, value_range: Range | None) -> None:
    """Refuse what is not finite, and floats of 0 to 255 that would be taken for 0 to 1."""
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteInputError("expected finite float32 values, got NaN or infinity; replace them before restoring")
    # more than half of the values above it: the median is, too, and no sorting is needed
    if value_range is None and 2 * int((values > HIGHEST_MEDIAN).sum()) > values.numel():
        raise InvalidInputError(
            f"expected floats nominally in [0,1], got a median of {float(values.median()):.4g}; if white is 255 give "
            "value_range=(0, 255), and value_range=(0, 1) if these values are meant"
        )


def _scaled(values: Tensor, value_range: Range) -> Tensor:
    low, high = value_range
    return values if value_range == (0.0, 1.0) else values.sub_(low).div_(high - low)


def _unscaled(values: Tensor, value_range: Range) -> Tensor:
    low, high = value_range
    return values if value_range == (0.0, 1.0) else values * (high - low) + low


def _from_tensor(image: Tensor, value_range: Range | None) -> tuple[Tensor, Back]:
    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point() or 0 in image.shape:
        raise InvalidInputError(
            f"expected a floating tensor [B,1,H,W] or [B,3,H,W], got {image.dtype} {list(image.shape)}"
        )
    batch = image.detach().float()
    _check_values(batch, value_range)
    limits = value_range or (0.0, 1.0)
    if limits != (0.0, 1.0):
        batch = _scaled(batch.clone(), limits)
    # Always a copy: one taken outside of inference mode is a tensor like any other, which the caller may write to.
    return batch, lambda result: _unscaled(result, limits).to(device=image.device, dtype=image.dtype, copy=True)


def _from_array(image: NDArray[Any], value_range: Range | None) -> tuple[Tensor, Back]:
    shape = image.shape
    if 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        hint = "; keep alpha apart from the colours" if len(shape) == 3 and shape[2] == 4 else ""
        raise InvalidInputError(f"expected an array [H,W] or [H,W,3], got {list(shape)}{hint}")
    whole = image.dtype.newbyteorder("=") in (np.uint8, np.uint16)  # TIFF and FITS give either byte order
    if not whole and image.dtype.kind != "f":
        raise InvalidInputError(f"expected uint8, uint16 or floating values, got {image.dtype}; convert them first")
    limits = value_range or (0.0, float(np.iinfo(image.dtype).max) if whole else 1.0)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and is refused as such
        pixels = torch.from_numpy(np.array(image.reshape(*shape[:2], -1), dtype=np.float32, order="C"))  # a copy
    _check_values(pixels, limits if whole else value_range)
    batch = _scaled(pixels, limits).permute(2, 0, 1)[None]

    def back(result: Tensor) -> NDArray[Any]:
        values = result[0].permute(1, 2, 0)
        if whole:
            # half to even; clipped to the given range, and to what the type holds
            array = np.rint(_unscaled(values.clamp(0, 1), limits).cpu().numpy())
            array = np.clip(array, 0, np.iinfo(image.dtype).max)
        else:
            array = _unscaled(values, limits).cpu().numpy()
        result_array: NDArray[Any] = array.reshape(shape).astype(image.dtype)
        return result_array

    return batch, back


def _from_pil(image: Any, value_range: Range | None) -> tuple[Tensor, Back]:
    """Modes L, RGB and 16-bit gray as they are; alpha is carried beside; others become RGB, LA or RGBA first."""
    if getattr(image, "is_animated", False):
        raise InvalidInputError("expected a still picture, got an animation; restore its frames one by one")
    plain, info = _plain(image)
    alpha = plain.getchannel("A") if plain.mode in ("LA", "RGBA") else None
    opaque = plain.convert(plain.mode[:-1]) if alpha is not None else plain
    batch, back_to_array = _from_array(np.asarray(opaque), value_range)

    def to_pil(result: Tensor) -> Any:
        from PIL import Image  # optional; here it is, since the caller holds one of its images

        array = back_to_array(result)
        restored = Image.fromarray(array.astype(array.dtype.newbyteorder("=")))
        if alpha is not None:
            restored.putalpha(alpha)
        restored.info.update(info)
        return restored

    return batch, to_pil


def _plain(image: Any) -> tuple[Any, dict[str, Any]]:
    """A PIL image in a mode that is restored (L, LA, RGB, RGBA or 16-bit gray), and the info that goes with it."""
    from PIL import Image

    mode, info = image.mode, {key: image.info[key] for key in _KEPT_INFO if key in image.info}
    keyed = "transparency" in image.info
    if (mode[0] in "IF" and not mode.startswith("I;16")) or (mode.startswith("I;16") and keyed):
        # Pillow would cut everything above 255 off, and has no mode for 16-bit gray with alpha.
        what = f"mode {mode} with a transparent value" if mode.startswith("I;16") else f"mode {mode}"
        raise InvalidInputError(
            f"expected a PIL image of 8 bits or of mode I;16, got {what}; "
            "give its values as a numpy array, uint16 or floating in [0,1]"
        )
    if mode in ("LA", "RGBA") or mode.startswith("I;16") or (mode in ("L", "RGB") and not keyed):
        return image, info
    profile = info.get("icc_profile")
    if mode == "CMYK" and profile:
        # by the profile that says what these inks look like; the result is sRGB, and says so
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
        del info["icc_profile"]  # it speaks of channels that are no more
    return converted, info


def to_channels(batch: Tensor, channels: int) -> tuple[Tensor, Back]:
    """Fit colour or gray images [B,1|3,H,W] to a network of 1 or 3 channels, and the way back for its result.

    Gray into a colour network is replicated and the result averaged. Colour into a gray network: the luma is restored
    and its change added to the three colours, which keeps the chroma.
    """
    have = batch.shape[1]
    if have == channels:
        return batch, lambda result: result
    if channels == 3:
        return batch.expand(-1, 3, -1, -1), lambda result: result.mean(1, keepdim=True)
    luma = (batch * batch.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return luma, lambda result: batch + (result - luma)
