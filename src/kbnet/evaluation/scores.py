"""How an output is compared with the clean picture, one function a protocol: names of measures and their values."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kbnet.evaluation.samples import Image, Target
from kbnet.metrics import (
    Lpips,
    matlab_y,
    mean_absolute_error,
    psnr,
    shifted_psnr,
    ssim_matlab,
    ssim_uniform,
    to_uint8,
)

Score = Callable[[Image, Target], dict[str, float]]
"""Measures by name; the first is the one that decides whether a picture got worse, and higher is better there."""

_SHIFT, _BORDER = 10, 16  # pixels; kernels of Levin et al. reach 13 pixels from their middle


def score_bytes(output: Image, target: Target) -> dict[str, float]:
    """Both rounded to 8 bits, all channels together: PSNR, and MATLAB's SSIM."""
    a, b = to_uint8(output), _to_bytes(target)
    return {"psnr": psnr(a, b), "ssim": _ssim_matlab(a, b)}


def score_y(output: Image, target: Target) -> dict[str, float]:
    """As deraining is measured: rounded to 8 bits, then MATLAB's Y, rounded again."""
    a, b = matlab_y(to_uint8(output)), matlab_y(_to_bytes(target))
    return {"psnr": psnr(a, b), "ssim": _ssim_matlab(a, b)}


def score_sidd(output: Image, target: Target) -> dict[str, float]:
    """As SIDD's validation blocks are measured: clipped, in floating point, never rounded.

    SSIM is scikit-image's default at the range of 1, and at the range of 2 that old versions took for floats.
    """
    a, b = np.clip(output, 0, 1).astype(np.float64), _to_unit(target)
    return {"psnr": psnr(a, b, 1.0), "ssim": ssim_uniform(a, b, 1.0), "ssim range 2": ssim_uniform(a, b, 2.0)}


def score_dpdd(output: Image, target: Target) -> dict[str, float]:
    """As DPDD is measured: clipped, in floating point, 16-bit pictures at their full depth."""
    a, b = np.clip(output, 0, 1).astype(np.float64), _to_unit(target)
    return {"psnr": psnr(a, b, 1.0), "ssim": ssim_uniform(a, b, 1.0), "mae": mean_absolute_error(a, b)}


def score_shifted(output: Image, target: Target) -> dict[str, float]:
    """PSNR of bytes within a border of 16 pixels, at the best of all shifts up to 10 pixels."""
    best, _ = shifted_psnr(to_uint8(output), _to_bytes(target), shift=_SHIFT, border=_BORDER)
    return {"psnr": best}


def _to_bytes(target: Target) -> NDArray[np.uint8]:
    return target if target.dtype == np.uint8 else to_uint8(_to_unit(target))  # type: ignore[return-value]  # its dtype was looked at


def _to_unit(target: Target) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = target.astype(np.float64) / np.iinfo(target.dtype).max
    return unit


def _ssim_matlab(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    # pictures smaller than its window have none, and are no reason to do without their PSNR
    return ssim_matlab(a, b) if min(a.shape[:2]) >= 11 else float("nan")


def with_lpips(score: Score) -> Score:
    """The same and LPIPS, under a name that says that nobody compared it with a published figure here.

    Raises:
        MissingExtraError: the `lpips` package is not installed.
    """
    distance = Lpips()

    def both(output: Image, target: Target) -> dict[str, float]:
        perceptual = distance(np.clip(output, 0, 1), _to_unit(target))
        return {**score(output, target), "lpips (not verified)": perceptual}

    return both
