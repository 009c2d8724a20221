"""The numpy specification computes what the modules compute, and needs no torch."""

import numpy as np
import pytest
import torch

from kbnet.engine.reference import restore


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (16, 24)])
def test_it_computes_what_the_modules_compute(network, settings, arrays, size):
    x = np.random.default_rng(0).normal(0.5, 0.4, (1, network.config.channels, *size))
    doubles = {name: value.astype(np.float64) for name, value in arrays.items()}
    double = type(network)(network.config).double().eval()
    double.load_state_dict(network.state_dict())
    height, width = size
    multiple = network.input_multiple
    padded = np.pad(x, ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)))  # KBNet-L's takes no other
    with torch.no_grad():
        expected = double(torch.from_numpy(padded)).numpy()[:, :, :height, :width]
    np.testing.assert_allclose(restore(x, doubles, settings), expected, atol=1e-12)


def test_the_engine_room_imports_no_torch(run_python):
    code = "import sys, kbnet.engine, kbnet.engine.reference; print('torch' in sys.modules)"
    assert run_python(code) == "False\n"
