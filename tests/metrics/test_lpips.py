"""The adapter for LPIPS, without the package: what it is given, and the refusal."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from kbnet.errors import InvalidInputError, MissingExtraError
from kbnet.metrics import Lpips


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package, whose distance is the mean difference; it keeps what it was given."""
    given = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            given.append(net)

        def forward(self, image, reference):
            given.append((image, reference))
            return (image - reference).abs().mean().reshape(1, 1, 1, 1)

    module = types.ModuleType("lpips")
    module.LPIPS = LPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    return given


def test_images_reach_it_as_a_batch_between_minus_1_and_1(package):
    image, reference = np.zeros((8, 9, 3)), np.full((8, 9, 3), 0.75)
    assert Lpips()(image, reference) == pytest.approx(1.5)
    net, (first, second) = package
    assert net == "alex"
    assert first.shape == second.shape == (1, 3, 8, 9)
    assert (first.dtype, float(first.max()), float(second.min())) == (torch.float32, -1, 0.5)


def test_gray_images_are_refused(package):
    with pytest.raises(InvalidInputError, match="colour images"):
        Lpips()(np.zeros((8, 9)), np.zeros((8, 9)))


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="the package is installed here")
def test_without_the_package_the_refusal_says_how_to_install_it():
    with pytest.raises(MissingExtraError, match=r"'lpips', which is not installed; run: pip install 'kbnet\[lpips\]'"):
        Lpips()
