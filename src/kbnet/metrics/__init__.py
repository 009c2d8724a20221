"""Measures, and the published protocols as functions of a restorer and a set of images."""

from kbnet.metrics.gaussian import gaussian_scores, noisy
from kbnet.metrics.psnr import psnr, to_uint8

__all__ = ["gaussian_scores", "noisy", "psnr", "to_uint8"]
