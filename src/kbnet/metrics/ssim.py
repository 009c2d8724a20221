"""Structural similarity (SSIM; Wang et al., IEEE TIP 2004) in the three variants that restoration papers report.

They can differ by several hundredths on the same images, so always name the variant along with a value.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

_K1, _K2 = 0.01, 0.03
_RADIUS, _SIGMA = 5, 1.5
_SIDE = 7

Planes = NDArray[np.float64]


def ssim_matlab(image: NDArray[np.generic], reference: NDArray[np.generic], peak: float = 255.0) -> float:
    """Return SSIM as in its authors' MATLAB code: an 11x11 Gaussian window with sigma 1.5, valid region only.

    The result is the mean over the pixels of each channel, then over channels. Used for deraining and SenseNoise.

    Args:
        image, reference: [H,W] or [H,W,3] with at least 11 pixels per side.
        peak: the largest possible value, 255 for 8-bit images.

    Raises:
        InvalidInputError: the shapes differ, or the images are smaller than the window.
    """
    x, y = _planes(image, reference, 2 * _RADIUS + 1)
    window = _gaussian()
    return _mean_ssim(x, y, lambda planes: _valid(planes, window), peak, unbiased=1.0)


def ssim_uniform(image: NDArray[np.generic], reference: NDArray[np.generic], peak: float = 255.0) -> float:
    """Return SSIM as scikit-image computes it by default: a 7x7 uniform window and sample covariance (N - 1 = 48).

    The result is the mean over the pixels whose window is inside the image, and over channels. Used for SIDD and DPDD.

    Args:
        image, reference: [H,W] or [H,W,3] with at least 7 pixels per side.
        peak: scikit-image's `data_range`. Old versions defaulted to 2 for floats, as in published SIDD results.

    Raises:
        InvalidInputError: the shapes differ, or the images are smaller than the window.
    """
    x, y = _planes(image, reference, _SIDE)
    window = np.full(_SIDE, 1 / _SIDE)
    count = _SIDE * _SIDE
    return _mean_ssim(x, y, lambda planes: _valid(planes, window), peak, unbiased=count / (count - 1))


def ssim_3d(image: NDArray[np.generic], reference: NDArray[np.generic], peak: float = 255.0) -> float:
    """Return SSIM with an 11x11x11 Gaussian window that also spans the colour channels, with replicated borders.

    BasicSR computes this variant, and several papers report it. It mixes channels and is higher than the others.

    Args:
        image, reference: [H,W] or [H,W,3].
        peak: the largest possible value.

    Raises:
        InvalidInputError: the shapes differ.
    """
    x, y = _planes(image, reference, 1)
    window = _gaussian()

    def mean(volume: Planes) -> Planes:
        wide = np.pad(volume, _RADIUS, mode="edge")
        across = _along(wide, window, 0)
        return _valid(across, window)

    return _mean_ssim(x, y, mean, peak, unbiased=1.0)


SSIM_VARIANTS: dict[str, Callable[..., float]] = {
    "ssim matlab": ssim_matlab,
    "ssim uniform": ssim_uniform,
    "ssim 3d": ssim_3d,
}
"""All variants, by their names in results."""


def _mean_ssim(x: Planes, y: Planes, mean: Callable[[Planes], Planes], peak: float, *, unbiased: float) -> float:
    """Average equation 13 of the paper over all positions of the window; `mean` applies the window."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_x, mean_y = mean(x), mean(y)
    variance_x = unbiased * (mean(x * x) - mean_x * mean_x)
    variance_y = unbiased * (mean(y * y) - mean_y * mean_y)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    return float(np.mean(numerator / denominator))


def _gaussian() -> NDArray[np.float64]:
    weights = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA**2))
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


def _valid(planes: Planes, window: NDArray[np.float64]) -> Planes:
    """Apply the window along height and width, [C,H,W] -> [C,H-k+1,W-k+1]."""
    return _along(_along(planes, window, 1), window, 2)


def _along(array: Planes, window: NDArray[np.float64], axis: int) -> Planes:
    count = array.shape[axis] - len(window) + 1
    whole = [slice(None)] * array.ndim
    total: Planes | None = None
    for offset, weight in enumerate(window):
        whole[axis] = slice(offset, offset + count)
        part = array[tuple(whole)] * weight
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def _planes(image: NDArray[np.generic], reference: NDArray[np.generic], side: int) -> tuple[Planes, Planes]:
    if image.shape != reference.shape:
        raise InvalidInputError(f"expected images of the same shape, got {image.shape} and {reference.shape}")
    if image.ndim not in (2, 3) or min(image.shape[:2]) < side:
        raise InvalidInputError(
            f"expected images [H,W] or [H,W,C] with at least {side} pixels per side, got {list(image.shape)}"
        )
    x, y = (np.atleast_3d(a.astype(np.float64)).transpose(2, 0, 1) for a in (image, reference))
    return x, y
