"""Scratch memory: what a call takes beyond inputs, outputs and gradients stays under a bound, whatever the image."""

import json
from pathlib import Path

import kba_cases
import pytest

from kbnet.ops import reference

LIMIT = 256 * 2**20

# The peak is read in a process of its own, reset before each call: another test's allocations must not hide or add any.
# VmHWM and not ru_maxrss, because on Linux the latter starts at the size of the process that started this one.
CHILD = """
import json, sys, torch
from kbnet.ops import kernel_basis_attention

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

def scratch_of(call):
    "Peak of a call above what was there before it, less what it returns."
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    returned = call()
    peak = status("VmHWM")
    return peak - before - sum(t.numel() * t.itemsize for t in returned), returned

def make(b, c, n, g, k, h, w, dtype):
    sizes = ((b, c, h, w), (b, n, h, w), (n, c, g, k, k), (n, c))
    return [torch.full(s, 0.01, dtype=getattr(torch, dtype)).requires_grad_() for s in sizes]

# Libraries load and thread pools start at the first call.
kernel_basis_attention(*make(1, 8, 2, 4, 3, 8, 8, "float32"), backend=sys.argv[2]).sum().backward()
for case in json.loads(sys.argv[1]):
    tensors = make(*case)
    forward, (y,) = scratch_of(lambda: [kernel_basis_attention(*tensors, backend=sys.argv[2])])
    dy = torch.ones_like(y)
    backward, gradients = scratch_of(lambda: torch.autograd.grad(y, tensors, dy))
    print(json.dumps([forward, backward]), flush=True)
    del tensors, y, dy, gradients
"""

CASES = {
    # All N convolutions at once, or a kernel per pixel, with one product of it: 0.3 GB or more in the float32 cases.
    "a large image": (1, 32, 32, 4, 3, 200, 200, "float32"),
    "a row of many pixels": (1, 32, 32, 2, 3, 1, 40_000, "float32"),
    "a large batch": (40, 32, 32, 2, 3, 32, 32, "float32"),
    "many channels": (1, 1024, 32, 4, 1, 40, 40, "float32"),
    # Next to nothing but image: the convolution's own copies would weigh many times its result.
    "hardly any channels": (1, 1, 1, 1, 3, 2048, 2048, "float32"),
    # A float32 copy of anything as large as the image would be 0.3 GB.
    "a large image in bfloat16": (1, 16, 1, 1, 1, 2240, 2240, "bfloat16"),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("backend", kba_cases.CPU_BACKENDS)
def test_scratch_memory_is_bounded(backend, run_python):
    lines = run_python(CHILD, json.dumps(list(CASES.values())), backend).splitlines()
    peaks = dict(zip(CASES, map(json.loads, lines), strict=True))
    if backend == "reference":
        # A measurement that sees nothing would pass whatever is done: the reference's blocks are to be seen.
        assert min(peaks["a large image"]) > reference.SCRATCH_BYTES / 2
    assert {name: peak for name, peak in peaks.items() if max(peak) > LIMIT} == {}
