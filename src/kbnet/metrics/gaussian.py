"""The protocol of papers on Gaussian denoising: fixed, unclipped noise per image; PSNR after rounding to 8 bits."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kbnet.metrics.psnr import psnr, to_uint8

Image = NDArray[np.float32]


def noisy(clean: NDArray[np.uint8], sigma: float) -> Image:
    """Add the protocol's noise to a clean image.

    The noise comes from `numpy.random.seed(0)` for each image, so images of the same size get the same noise. It is
    added in float32, as in the evaluation of KBNet, Restormer and most peers.

    Args:
        clean: [H,W] or [H,W,3] uint8.
        sigma: standard deviation of the noise on a scale of 255.

    Returns:
        The noisy image in the same shape, float32 on a scale of [0,1], not clipped.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255.0, clean.shape)
    image = clean.astype(np.float32) / np.float32(255)
    image += noise
    return image


def gaussian_scores(
    restore: Callable[[Image], NDArray[np.floating]], photos: Iterable[NDArray[np.uint8]], sigma: float
) -> Iterator[tuple[float, float]]:
    """Yield the PSNR in dB of the noisy and of the restored image for each photo. A set's score is the mean.

    Args:
        restore: takes and returns a float image [H,W] or [H,W,3] on a scale of [0,1].
        photos: clean 8-bit images, [H,W] or [H,W,3].
        sigma: standard deviation of the noise on a scale of 255.
    """
    for clean in photos:
        image = noisy(clean, sigma)
        yield psnr(to_uint8(image), clean), psnr(to_uint8(restore(image)), clean)
