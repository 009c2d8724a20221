"""Image quality metrics, and published protocols as functions of a restorer and a set of images."""

from kbnet.metrics.gaussian import gaussian_scores, noisy
from kbnet.metrics.lpips import Lpips
from kbnet.metrics.luma import matlab_y, opencv_gray
from kbnet.metrics.psnr import mean_absolute_error, psnr, shifted_psnr, to_uint8
from kbnet.metrics.ssim import SSIM_VARIANTS, ssim_3d, ssim_matlab, ssim_uniform

__all__ = [
    "SSIM_VARIANTS",
    "Lpips",
    "gaussian_scores",
    "matlab_y",
    "mean_absolute_error",
    "noisy",
    "opencv_gray",
    "psnr",
    "shifted_psnr",
    "ssim_3d",
    "ssim_matlab",
    "ssim_uniform",
    "to_uint8",
]
