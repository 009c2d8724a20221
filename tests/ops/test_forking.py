"""Forked children compute, whatever their parent has computed before; plain torch hangs in them."""

import multiprocessing

import pytest

from kbnet.engine import native

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)

CHILD = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")  # newer Pythons warn about forking a process with threads: that is what is tested

def child_of(work):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(int(not work()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

AFTER_USE = (
    CHILD
    + """
os.environ["KBNET_FUSED"] = sys.argv[1]
import kbnet, torch
torch.manual_seed(0)
torch.set_num_threads(2)
network, x = kbnet.create_model("kbnet-nano", width=8).eval(), torch.rand(1, 3, 96, 96)
with torch.inference_mode():
    before = network(x)
    print(child_of(lambda: torch.allclose(network(x), before, atol=1e-5) and torch.get_num_threads() == 1))
    print(child_of(lambda: child_of(lambda: torch.allclose(network(x), before, atol=1e-5)) == 0))
    print(torch.equal(network(x), before), torch.get_num_threads())
"""
)

WITHOUT_TORCH = (
    CHILD
    + """
from dataclasses import asdict
import numpy as np
from kbnet.engine import Engine
from kbnet.engine.native import extension
from kbnet.models import read_weights, resolve
from kbnet.models.weights import widened
weights = read_weights(resolve("denoise"))
engine = Engine(asdict(weights.config), {k: widened(v) for k, v in weights.arrays.items()}, threads=2)
x = np.random.default_rng(0).random((1, 3, 96, 96), np.float32)
before = engine(x)
print(child_of(lambda: np.array_equal(engine(x), before)))
print(child_of(lambda: child_of(lambda: np.array_equal(engine(x), before)) == 0))
print(np.array_equal(engine(x), before), extension().thread_source(), "torch" in sys.modules)
"""
)

BEFORE_USE = (
    CHILD
    + """
import torch
torch.set_num_threads(2)
import kbnet.ops
a, b = torch.rand(4, 32, 64, 64), torch.rand(32, 32, 3, 3)
print(child_of(lambda: torch.get_num_threads() == 2 and torch.conv2d(a, b).shape))
torch.conv2d(a, b)  # a parallel loop, but none of kbnet's
print(child_of(lambda: torch.get_num_threads() == 1))
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("fused", ["on", "off"])
def test_a_child_computes_what_its_parent_computed(fused, run_python):
    """Torch's own operators among them, which in a child of a used runtime wait for ever."""
    assert run_python(AFTER_USE, fused) == "0\n0\nTrue 2\n"


@pytest.mark.skipif(native.refuses_here() is not None, reason="no compiled kernels")
def test_a_child_runs_whole_networks_on_kbnets_own_threads(run_python):
    assert run_python(WITHOUT_TORCH) == "0\n0\nTrue own False\n"


def test_before_any_use_a_child_keeps_its_threads(run_python):
    assert run_python(BEFORE_USE) == "0\n0\n"
