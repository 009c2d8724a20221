"""Peak signal-to-noise ratio, and rounding to 8 bits as every protocol does it."""

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
    if image.shape != reference.shape:
        raise InvalidInputError(f"expected images of one shape, got {image.shape} and {reference.shape}")
    difference = image.astype(np.float64) - reference.astype(np.float64)
    error = float(np.mean(difference * difference))
    return float("inf") if error == 0 else float(10 * np.log10(peak * peak / error))
