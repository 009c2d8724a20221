"""Small networks and images that the tests of the Restorer share."""

import numpy as np
import pytest
import torch
from torch import nn

from kbnet.inference import Restorer
from kbnet.inference.tiles import plan
from kbnet.models import create_model
from kbnet.nn import KernelBasisAttention


def kbnet_s(levels=2, channels=3):
    blocks = (1,) * levels
    return create_model(
        "kbnet-nano",
        channels=channels,
        width=8,
        encoder_blocks=blocks,
        decoder_blocks=blocks,
        middle_blocks=1,
        bases=4,
    )


def kbnet_l():
    return create_model(
        "kbnet-l-derain", width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, bases=4, heads=(1, 2, 2, 4)
    )


def loud(build, *arguments):
    """A network whose residual branches count as much as its trunk, so that what they average over is seen."""
    torch.manual_seed(0)
    network = build(*arguments)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(1)
    return network


def blind_to_neighbours(network):
    """The same with only the middle tap of every kernel: nothing but averages ties pixels together any more."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size in ((3, 3), (5, 5)):
                middle = layer.weight.flatten(2)[..., layer.weight[0, 0].numel() // 2].clone()
                layer.weight.zero_()
                layer.weight[..., layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = middle
            if isinstance(layer, KernelBasisAttention):
                kernels = layer.weight.unflatten(2, layer.taps)
                middle = kernels[..., 1, 1].clone()
                kernels.zero_()
                kernels[..., 1, 1] = middle
    return network


NETWORKS = {"kbnet-s": loud(kbnet_s), "kbnet-l": loud(kbnet_l)}
QUIET = loud(kbnet_s)
FAMILIES = pytest.mark.parametrize("family", NETWORKS)
# Brighter on the right, so that a tile's averages are not the image's.
HALVES = np.random.default_rng(0).random((48, 240, 3), np.float32) * 0.3
HALVES[:, 120:] += 0.6


def noise(*shape):
    return np.random.default_rng(1).random(shape, np.float32)


def on_cpu(network, **options):
    return Restorer(network, **{"device": "cpu", "tile": 0} | options)


def largest_difference(a, b):
    return float(np.abs(a - b).max())


def recorded(restore, image, **options):
    """The result and the progress calls."""
    calls = []
    result = restore(image, progress=lambda done, total: calls.append((done, total)), **options)
    return result, calls


def tiles_of(height, width, *tiling):
    return len(plan(height, *tiling)) * len(plan(width, *tiling))
