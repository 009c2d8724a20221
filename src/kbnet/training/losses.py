"""What training minimises; every loss is a mean over patches, so that parts of a batch add up to the whole."""

import torch
from torch import Tensor

from kbnet.training.recipe import LossSection

_TINY = 1e-8
"""Added to a mean squared error: the PSNR of two equal patches is 80 dB and not infinite."""


def loss_of(section: LossSection, restored: Tensor, clean: Tensor) -> Tensor:
    """The loss of float32 patches [B,C,H,W], a scalar.

    "psnr" is 10 log10 of each patch's mean squared error, its negative PSNR in dB (HINet, arXiv 2105.06086).
    """
    difference = restored - clean
    if section.kind == "l1":
        return difference.abs().mean()
    if section.kind == "charbonnier":
        return (difference.square() + section.epsilon**2).sqrt().mean()
    return 10 * torch.log10(difference.square().flatten(1).mean(1) + _TINY).mean()
