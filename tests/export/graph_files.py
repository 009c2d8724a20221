"""Small networks of every family, written as graphs once for all tests."""

import torch

from kbnet.models import create_model, load_model

SIZES = ((48, 64), (37, 53), (1, 90))
RUNTIMES = {"onnx": ".onnx", "openvino": ".xml"}


def small(family):
    """A network whose residual branches and averages count as much as its trunk; `nano` has shipped weights."""
    if family == "nano":
        return load_model("denoise-gaussian")
    torch.manual_seed(0)
    if family == "s":
        ones = (1, 1, 1, 1)
        network = create_model(
            "kbnet-s-gaussian-color", width=8, encoder_blocks=ones, middle_blocks=1, decoder_blocks=ones, bases=12
        )
    else:
        network = create_model(
            "kbnet-l-derain", width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4), bases=4
        )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(1)
    return network.eval()


def image(*shape, seed=1):
    """Values in [0,1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
