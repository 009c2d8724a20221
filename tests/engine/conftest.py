"""Networks whose every parameter matters, as modules and as engines."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from lively_networks import enliven

import kbnet

SMALL = {"width": 8, "encoder_blocks": (1, 2), "decoder_blocks": (1, 1), "middle_blocks": 1, "bases": 8}
NETWORKS = {
    "compact": ("kbnet-nano", SMALL),
    "gray": ("kbnet-nano-gray", SMALL),
    "published form": ("kbnet-s-gaussian-color", {**SMALL, "bases": 32}),
    "one level, odd bases": (
        "kbnet-nano",
        {"width": 12, "encoder_blocks": (1,), "decoder_blocks": (2,), "middle_blocks": 0, "bases": 5, "ffn_scale": 1.5},
    ),
}
LARGE = {"width": 8, "blocks": (1, 2, 1, 1), "heads": (1, 2, 2, 4), "refinement_blocks": 1, "bases": 6}
NETWORKS |= {
    "large": ("kbnet-l-derain", {**LARGE, "coefficient_limit": 8}),
    "large, gray, biases, an empty level": (
        "kbnet-l-derain",
        {**LARGE, "channels": 1, "width": 6, "heads": (1, 2, 3, 4), "blocks": (1, 0, 1, 2), "bases": 5, "bias": True}
        | {"group_channels": 1, "kernel_size": 5, "expansion": 2.0},
    ),
}


@pytest.fixture(scope="session", params=NETWORKS)
def network(request):
    """A network in eval mode whose scales are large enough for every branch to show in the output."""
    preset, settings = NETWORKS[request.param]
    torch.manual_seed(3)
    return enliven(kbnet.create_model(preset, **settings), 0.1)


@pytest.fixture(scope="session")
def arrays(network):
    """Its parameters by name, float32."""
    return {name: np.ascontiguousarray(value.numpy()) for name, value in network.state_dict().items()}


@pytest.fixture(scope="session")
def settings(network):
    """Its settings."""
    return asdict(network.config)
