"""Losses. Each is a mean over patches, so that the parts of a batch add up to the whole."""

import torch
from torch import Tensor

from kbnet.training.recipe import LossSection


def loss_of(section: LossSection, restored: Tensor, clean: Tensor) -> Tensor:
    """Compute the loss of float32 patches [B,C,H,W], nominally in [0,1]; returns a scalar.

    "psnr" is 10 log10 of each patch's mean squared error, its negative PSNR in dB (HINet, arXiv 2105.06086).
    """
    difference = restored - clean
    if section.kind == "l1":
        return difference.abs().mean()
    if section.kind == "charbonnier":
        return (difference.square() + section.epsilon**2).sqrt().mean()
    return 10 * torch.log10(difference.square().flatten(1).mean(1) + section.floor).mean()
