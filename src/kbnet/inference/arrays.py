"""From any accepted image to a batch of float32 channels and back to the same kind, shape and depth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kbnet.errors import InvalidInputError, NonFiniteInputError

Back = Callable[[Tensor], Any]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_batch(image: Any) -> tuple[Tensor, Back]:
    """The image as float32 [B,C,H,W] nominally in [0,1], and the function that turns such a result back into its kind.

    Accepts what `Restorer.__call__` lists.

    Raises:
        NonFiniteInputError: NaN or infinity.
        InvalidInputError: any other kind, shape or dtype.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if type(image).__module__.partition(".")[0] == "PIL":
        return _from_pil(image)
    raise InvalidInputError(
        f"expected a PIL image, a numpy array or a torch tensor, got {type(image).__name__}; "
        "for a file use `kbnet restore`, or kbnet.imaging.read_photo(path).pixels"
    )


def _from_tensor(image: Tensor) -> tuple[Tensor, Back]:
    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point() or 0 in image.shape:
        raise InvalidInputError(
            f"expected a floating tensor [B,1,H,W] or [B,3,H,W], got {image.dtype} {list(image.shape)}"
        )
    batch = image.detach().float()
    _refuse_non_finite(bool(torch.isfinite(batch).all()))
    # Always a copy: one taken outside of inference mode is a tensor like any other, which the caller may write to.
    return batch, lambda result: result.to(device=image.device, dtype=image.dtype, copy=True)


def _from_array(image: NDArray[Any]) -> tuple[Tensor, Back]:
    shape = image.shape
    if 0 in shape or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        hint = "; keep alpha apart from the colours" if len(shape) == 3 and shape[2] == 4 else ""
        raise InvalidInputError(f"expected an array [H,W] or [H,W,3], got {list(shape)}{hint}")
    if image.dtype.kind == "f":
        scale = 1.0
    elif image.dtype in (np.uint8, np.uint16):
        scale = float(np.iinfo(image.dtype).max)
    else:
        raise InvalidInputError(f"expected uint8, uint16 or floating values, got {image.dtype}; convert them first")
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, and is refused as such
        pixels = torch.from_numpy(np.array(image.reshape(*shape[:2], -1), dtype=np.float32, order="C"))  # a copy
    _refuse_non_finite(bool(torch.isfinite(pixels).all()))
    batch = pixels.div_(scale).permute(2, 0, 1)[None]

    def back(result: Tensor) -> NDArray[Any]:
        array = result[0].permute(1, 2, 0).cpu().numpy().reshape(shape)
        if scale != 1.0:
            array = np.rint(np.clip(array, 0, 1) * np.float32(scale))  # half to even
        return array.astype(image.dtype)

    return batch, back


def _from_pil(image: Any) -> tuple[Tensor, Back]:
    """Modes L, RGB and 16-bit gray as they are; alpha is carried beside; others become RGB or RGBA first."""
    original = image.mode
    if getattr(image, "is_animated", False):
        raise InvalidInputError("expected a still picture, got an animation; restore its frames one by one")
    if original[0] in "IF" and original != "I;16":
        # Pillow would cut everything above 255 off.
        raise InvalidInputError(
            f"expected a PIL image of 8 bits or of mode I;16, got mode {original}; "
            "give its values as a numpy array, uint16 or floating in [0,1]"
        )
    if original not in ("L", "LA", "RGB", "RGBA", "I;16"):
        image = image.convert("RGBA" if original in ("PA", "La", "RGBa") or "transparency" in image.info else "RGB")
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    opaque = image.convert(image.mode[:-1]) if alpha is not None else image
    batch, back_to_array = _from_array(np.asarray(opaque))

    def to_pil(result: Tensor) -> Any:
        from PIL import Image  # optional; here it is, since the caller holds one of its images

        restored = Image.fromarray(back_to_array(result))
        if alpha is not None:
            restored.putalpha(alpha)
        restored.info.update({key: image.info[key] for key in ("icc_profile", "exif", "dpi") if key in image.info})
        return restored

    return batch, to_pil


def _refuse_non_finite(finite: bool) -> None:
    if not finite:
        raise NonFiniteInputError("expected finite float32 values, got NaN or infinity; replace them before restoring")


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
