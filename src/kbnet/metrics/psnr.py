"""Peak signal-to-noise ratio, mean absolute error, and the rounding to 8 bits that all protocols use."""

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Convert a float image to uint8: clip to [0,1], scale to 255 and round half to even."""
    rounded: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return rounded


def psnr(image: NDArray[np.generic], reference: NDArray[np.generic], peak: float = 255.0) -> float:
    """Return the PSNR in dB, 10 log10(peak^2 / mean squared error) over all pixels and channels.

    Identical images have infinite PSNR. `peak` is the largest possible value.

    Raises:
        InvalidInputError: the shapes differ.
    """
    difference = _difference(image, reference)
    error = float(np.mean(difference * difference))
    return float("inf") if error == 0 else float(10 * np.log10(peak * peak / error))


def mean_absolute_error(image: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
    """Return the mean absolute error over all pixels and channels, on the scale of the images (MAE in papers).

    Raises:
        InvalidInputError: the shapes differ.
    """
    return float(np.mean(np.abs(_difference(image, reference))))


def shifted_psnr(
    image: NDArray[np.generic], reference: NDArray[np.generic], *, shift: int, border: int, peak: float = 255.0
) -> tuple[float, tuple[int, int]]:
    """Return the best PSNR in dB over whole-pixel shifts of the reference, and that shift as (down, across).

    Blind deblurring determines an image only up to a shift, because the kernel can shift the opposite way. Levin et
    al. ("Understanding and evaluating blind deconvolution algorithms", CVPR 2009) therefore compare up to a shift.

    Args:
        image, reference: images of the same shape, [H,W] or [H,W,3].
        shift: largest shift in each direction, in pixels.
        border: pixels to leave out at every side of the image; at least `shift`.
        peak: the largest possible value.

    Raises:
        InvalidInputError: the shapes differ, `border` is less than `shift`, or no pixels are left inside the border.
    """
    height, width = image.shape[:2]
    if image.shape != reference.shape or not shift <= border or 2 * border >= min(height, width):
        raise InvalidInputError(
            f"expected images of the same shape with more than {2 * border} pixels per side and a border of at least "
            f"{shift} pixels, got {image.shape}, {reference.shape} and a border of {border}"
        )
    inner = image[border : height - border, border : width - border]
    best = (-np.inf, (0, 0))
    for down in range(-shift, shift + 1):
        for across in range(-shift, shift + 1):
            rows = slice(border + down, height - border + down)
            columns = slice(border + across, width - border + across)
            best = max(best, (psnr(inner, reference[rows, columns], peak), (down, across)))
    return best


def _difference(image: NDArray[np.generic], reference: NDArray[np.generic]) -> NDArray[np.float64]:
    if image.shape != reference.shape:
        raise InvalidInputError(f"expected images of the same shape, got {image.shape} and {reference.shape}")
    return image.astype(np.float64) - reference.astype(np.float64)
