"""The protocol of Gaussian denoising papers: one fixed noise per image, not clipped; PSNR after rounding to 8 bits."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kbnet.metrics.psnr import psnr, to_uint8

Image = NDArray[np.float32]


def noisy(clean: NDArray[np.uint8], sigma: float) -> Image:
    """The noisy input of the protocol, float32 on the scale of [0,1], unclipped, the same for every image of a size.

    Noise is drawn by `numpy.random.seed(0)` anew for each image, with `sigma` on the scale of 255, and added into a
    float32 image (KBNet's, Restormer's and most peers' evaluation).
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255.0, clean.shape)
    image = clean.astype(np.float32) / np.float32(255)
    image += noise
    return image


def gaussian_scores(
    restore: Callable[[Image], NDArray[np.floating]], photos: Iterable[NDArray[np.uint8]], sigma: float
) -> Iterator[tuple[float, float]]:
    """PSNR in dB of the noisy and of the restored image, one pair a photo; the set's score is their plain mean.

    Args:
        restore: takes and returns float [H,W] or [H,W,3] on the scale of [0,1].
        photos: clean 8-bit images, [H,W] or [H,W,3].
        sigma: standard deviation of the noise on the scale of 255.
    """
    for clean in photos:
        image = noisy(clean, sigma)
        yield psnr(to_uint8(image), clean), psnr(to_uint8(restore(image)), clean)
