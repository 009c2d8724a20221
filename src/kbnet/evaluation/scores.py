"""Scores: one function per protocol that compares an output with the clean image and returns metrics by name."""

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
"""Returns metrics by name. The first decides whether an image got worse; for it, higher is better."""

_SHIFT, _BORDER = 10, 16  # in pixels; the kernels of Levin et al. extend 13 pixels from their centre


def score_bytes(output: Image, target: Target) -> dict[str, float]:
    """Round both to 8 bits; PSNR in dB over all channels, and MATLAB's SSIM."""
    a, b = to_uint8(output), _to_bytes(target)
    return {"psnr": psnr(a, b), "ssim": _ssim_matlab(a, b)}


def score_y(output: Image, target: Target) -> dict[str, float]:
    """Score deraining: round to 8 bits, convert to MATLAB's Y and round again; PSNR in dB and MATLAB's SSIM."""
    a, b = matlab_y(to_uint8(output)), matlab_y(_to_bytes(target))
    return {"psnr": psnr(a, b), "ssim": _ssim_matlab(a, b)}


def score_sidd(output: Image, target: Target) -> dict[str, float]:
    """Score SIDD's validation blocks: clipped, in floating point, not rounded.

    SSIM is scikit-image's default with a data range of 1, and also with 2, which old versions assumed for floats.
    """
    a, b = np.clip(output, 0, 1).astype(np.float64), _to_unit(target)
    return {"psnr": psnr(a, b, 1.0), "ssim": ssim_uniform(a, b, 1.0), "ssim range 2": ssim_uniform(a, b, 2.0)}


def score_dpdd(output: Image, target: Target) -> dict[str, float]:
    """Score DPDD: clipped, in floating point, with 16-bit images at full depth."""
    a, b = np.clip(output, 0, 1).astype(np.float64), _to_unit(target)
    return {"psnr": psnr(a, b, 1.0), "ssim": ssim_uniform(a, b, 1.0), "mae": mean_absolute_error(a, b)}


def score_shifted(output: Image, target: Target) -> dict[str, float]:
    """Score with the best PSNR over all shifts up to 10 pixels, rounded to 8 bits, without a border of 16 pixels."""
    best, _ = shifted_psnr(to_uint8(output), _to_bytes(target), shift=_SHIFT, border=_BORDER)
    return {"psnr": best}


def _to_bytes(target: Target) -> NDArray[np.uint8]:
    return target if target.dtype == np.uint8 else to_uint8(_to_unit(target))  # type: ignore[return-value]  # the dtype was checked


def _to_unit(target: Target) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = target.astype(np.float64) / np.iinfo(target.dtype).max
    return unit


def _ssim_matlab(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    # Images smaller than the window have no SSIM, but still a PSNR.
    return ssim_matlab(a, b) if min(a.shape[:2]) >= 11 else float("nan")


def with_lpips(score: Score) -> Score:
    """Add LPIPS to a score. Its name says that it wasn't verified against published values.

    Raises:
        MissingExtraError: the `lpips` package isn't installed.
    """
    distance = Lpips()

    def both(output: Image, target: Target) -> dict[str, float]:
        perceptual = distance(np.clip(output, 0, 1), _to_unit(target))
        return {**score(output, target), "lpips (not verified)": perceptual}

    return both
