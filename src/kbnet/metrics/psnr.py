"""Peak signal-to-noise ratio, mean absolute error, and rounding to 8 bits as every protocol does it."""

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Clip to [0,1], scale to 255 and round half to even."""
    rounded: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return rounded


def psnr(image: NDArray[np.generic], reference: NDArray[np.generic], peak: float = 255.0) -> float:
    """10 log10(peak^2 / mean squared difference) in dB over all pixels and channels; infinite for equal images.

    Raises:
        InvalidInputError: the shapes differ.
    """
    difference = _difference(image, reference)
    error = float(np.mean(difference * difference))
    return float("inf") if error == 0 else float(10 * np.log10(peak * peak / error))


def mean_absolute_error(image: NDArray[np.generic], reference: NDArray[np.generic]) -> float:
    """The mean of |difference| over all pixels and channels, on the scale of the images; MAE in papers on deblurring.

    Raises:
        InvalidInputError: the shapes differ.
    """
    return float(np.mean(np.abs(_difference(image, reference))))


def shifted_psnr(
    image: NDArray[np.generic], reference: NDArray[np.generic], *, shift: int, border: int, peak: float = 255.0
) -> tuple[float, tuple[int, int]]:
    """The best PSNR in dB over whole-pixel shifts of the reference, and that shift (down, across).

    Blind deblurring leaves a picture's place open, for a kernel may be moved as the image is moved back; Levin et al.
    ("Understanding and evaluating blind deconvolution algorithms", CVPR 2009) compare up to a shift for this reason.

    Args:
        image, reference: of one shape, [H,W] or [H,W,3].
        shift: largest shift looked at, pixels each way.
        border: pixels of the image left out on every side, at least `shift`.
        peak: the largest value there can be.

    Raises:
        InvalidInputError: the shapes differ, or nothing is left between the borders.
    """
    height, width = image.shape[:2]
    if image.shape != reference.shape or not shift <= border or 2 * border >= min(height, width):
        raise InvalidInputError(
            f"expected images of one shape with more than {2 * border} pixels a side and a border of at least "
            f"{shift} pixels, got {image.shape} and {reference.shape} and a border of {border}"
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
        raise InvalidInputError(f"expected images of one shape, got {image.shape} and {reference.shape}")
    return image.astype(np.float64) - reference.astype(np.float64)
