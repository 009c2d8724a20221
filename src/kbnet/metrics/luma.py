"""Luma and gray conversions that reproduce the code behind published results: MATLAB's Y and OpenCV's gray."""

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

_STUDIO = (65481, 128553, 24966)  # thousandths; ITU-R BT.601 on the studio range, 16 to 235
_GRAY = (9798, 19235, 3735)  # 0.299, 0.587 and 0.114 times 2^15, as OpenCV rounds them
_PNG_GRAY = (9797, 19234, 3737)  # as libpng rounds them; it then rounds the result down


def matlab_y(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return Y of ITU-R BT.601 studio-range YCbCr, the first channel of MATLAB's `rgb2ycbcr`.

    For 8-bit images MATLAB rounds to integers, half up, so papers on deraining report the PSNR of rounded Y.

    Args:
        pixels: [H,W,3] uint8, or [H,W] uint8, which is returned unchanged as Y.

    Returns:
        [H,W] uint8, from 16 to 235.

    Raises:
        InvalidInputError: the shape or dtype is wrong.

    Example:
        >>> matlab_y(np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)).tolist()
        [[16, 235, 81]]
    """
    _check(pixels)
    if pixels.ndim == 2:
        return pixels
    # in integers, so that ties round exactly
    thousandths: NDArray[np.int64] = pixels.astype(np.int64) @ np.array(_STUDIO, dtype=np.int64)
    y: NDArray[np.uint8] = ((thousandths + 127500) // 255000 + 16).astype(np.uint8)
    return y


def opencv_gray(pixels: NDArray[np.uint8], *, read_from_png: bool = False) -> NDArray[np.uint8]:
    """Convert a colour image to gray as OpenCV's `cvtColor` does, pixel for pixel (versions 4.11 and 5.0).

    Args:
        pixels: [H,W,3] uint8, or [H,W] uint8, which is returned unchanged.
        read_from_png: convert as `imread` with `IMREAD_GRAYSCALE` does for a colour PNG, as the papers' scripts use it.
            There libpng converts, and about every second pixel is one level lower.

    Returns:
        [H,W] uint8.

    Raises:
        InvalidInputError: the shape or dtype is wrong.

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
