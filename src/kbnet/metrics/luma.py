"""One channel of three, as the code that papers were measured with computes it: MATLAB's Y and OpenCV's gray."""

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

_STUDIO = (65481, 128553, 24966)  # thousandths; ITU-R BT.601 on the studio range, 16 to 235
_GRAY = (9798, 19235, 3735)  # 0.299, 0.587 and 0.114 times 2^15, as OpenCV rounds them
_PNG_GRAY = (9797, 19234, 3737)  # and as libpng does, which then rounds down


def matlab_y(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Y of ITU-R BT.601 studio-range YCbCr, the first channel of MATLAB's `rgb2ycbcr`: uint8 in, uint8 16 to 235 out.

    MATLAB rounds to whole numbers, half up, for an image of bytes, and so the deraining papers' PSNR is of rounded Y.

    Args:
        pixels: [H,W,3] uint8, or [H,W], which is taken as Y already.

    Raises:
        InvalidInputError: another shape or dtype.

    Example:
        >>> matlab_y(np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)).tolist()
        [[16, 235, 81]]
    """
    _check(pixels)
    if pixels.ndim == 2:
        return pixels
    # whole numbers throughout, so that a tie is a tie
    thousandths: NDArray[np.int64] = pixels.astype(np.int64) @ np.array(_STUDIO, dtype=np.int64)
    y: NDArray[np.uint8] = ((thousandths + 127500) // 255000 + 16).astype(np.uint8)
    return y


def opencv_gray(pixels: NDArray[np.uint8], *, read_from_png: bool = False) -> NDArray[np.uint8]:
    """The gray image that OpenCV makes of a colour one by `cvtColor`, equal in every pixel (versions 4.11 and 5.0).

    Args:
        pixels: [H,W,3] uint8, or [H,W], which comes back as it is.
        read_from_png: what it makes of a colour PNG by `imread` with `IMREAD_GRAYSCALE`, as the papers' scripts do:
            there libpng converts, to one level less in about every second pixel.

    Raises:
        InvalidInputError: another shape or dtype.

    Example:
        >>> opencv_gray(np.array([[[255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)).tolist()
        [[255, 76, 29]]
    """
    _check(pixels)
    if pixels.ndim == 2:
        return pixels
    weights, half = (_PNG_GRAY, 0) if read_from_png else (_GRAY, 1 << 14)
    total: NDArray[np.int64] = pixels.astype(np.int64) @ np.array(weights, dtype=np.int64)
    gray: NDArray[np.uint8] = ((total + half) >> 15).astype(np.uint8)
    return gray


def _check(pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InvalidInputError(f"expected uint8 pixels [H,W] or [H,W,3], got {pixels.dtype} {list(pixels.shape)}")
