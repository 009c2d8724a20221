"""The Triton kernels: values and all gradients against the reference, in Triton's interpreter; and that they compile.

The interpreter has to be asked for before anything imports triton, which PyTorch itself does, so the kernels run in a
process of their own. A result may err from float64 at most twice what plain PyTorch at the same precision errs, plus a
rounding of the largest value. Outputs start as NaN (see conftest.py): an unwritten one shows.
"""

import io
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_native import RESULTS, channels_last, make, run, sliced, transposed

from kbnet.errors import BackendError
from kbnet.ops import kernel_basis_attention, reference, triton

ROOT = Path(__file__).parents[2]

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
needs_gpu = pytest.mark.skipif(triton.refuses_here() is not None, reason=str(triton.refuses_here()))

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])

# (B, C, N, G, k, H, W): every tile cut short, of pixels, groups, outputs, inputs and bases. The interpreter is slow.
SHAPES = {
    "one pixel": (1, 4, 3, 2, 3, 1, 1),
    "a batch of pixels": (5, 4, 8, 4, 3, 1, 1),
    "7x13": (1, 8, 32, 4, 3, 7, 13),
    "two blocks of pixels": (3, 4, 2, 2, 3, 7, 9),
    "one column": (1, 4, 5, 4, 3, 67, 1),
    "one channel a group": (2, 5, 7, 1, 3, 6, 9),
    "three channels a group": (1, 6, 4, 3, 3, 5, 17),
    "one group of eight": (1, 8, 2, 8, 1, 4, 5),
    "one group of twenty": (1, 20, 2, 20, 1, 3, 4),
    "more groups than a block": (1, 24, 2, 1, 1, 3, 4),
    "one basis": (2, 4, 1, 4, 3, 5, 6),
    "40 bases": (1, 4, 40, 2, 1, 3, 5),
    "1x1 kernels": (2, 4, 3, 2, 1, 3, 33),
    "5x5 kernels on a smaller image": (2, 2, 3, 2, 5, 4, 3),
}


def start_interpreter():
    os.environ["TRITON_INTERPRET"] = "1"
    assert "triton" not in sys.modules
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def call(function, saved, limits):
    """In the interpreter's process. Tensors come and go as bytes, which keep strides and what lies between values."""
    for name, value in limits.items():
        setattr(triton, name, value)
    results = getattr(triton, function)(*torch.load(io.BytesIO(saved)))
    buffer = io.BytesIO()
    torch.save(results, buffer)
    return buffer.getvalue()


class Interpreted:
    """The backend in Triton's interpreter: `forward` and `backward` like any other."""

    def __init__(self, processes):
        self.processes = processes
        self.limits = {"PROGRAMS": 4, "SCRATCH_BYTES": triton.SCRATCH_BYTES, "PACKED_FROM": triton.PACKED_FROM}

    def _call(self, function, *arguments):
        buffer = io.BytesIO()
        torch.save(arguments, buffer)
        return torch.load(io.BytesIO(self.processes.submit(call, function, buffer.getvalue(), self.limits).result()))

    def forward(self, *tensors):
        return self._call("forward", *tensors)

    def backward(self, *tensors):
        return self._call("backward", *tensors)

    def refuses_here(self):
        return self._call("refuses_here")

    def refuses(self, *tensors):
        return self._call("refuses", *tensors)

    def describe(self):
        return self._call("describe")


@pytest.fixture(scope="module")
def processes():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=start_interpreter) as pool:
        yield pool


@pytest.fixture
def interpreted(processes):
    return Interpreted(processes)


def assert_as_good_as_pytorch(ours, tensors):
    """`ours`: results by name, of these tensors."""
    baseline, exact = run(reference, *tensors), run(reference, *(t.double() for t in tensors))
    for name in RESULTS:
        assert ours[name].shape == baseline[name].shape
        assert ours[name].dtype == baseline[name].dtype
        error = (ours[name].double() - exact[name]).abs().max()
        allowed = 2 * (baseline[name].double() - exact[name]).abs().max()
        rounding = torch.finfo(ours[name].dtype).eps * exact[name].abs().max()
        assert error <= allowed + rounding, f"{name}: {error:.3g} > {allowed:.3g} + {rounding:.3g}"


@needs_triton
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients(shape, interpreted):
    tensors = make(shape)
    assert_as_good_as_pytorch(run(interpreted, *tensors), tensors)


@needs_triton
@HALVES
@pytest.mark.parametrize("name", ["7x13", "two blocks of pixels", "three channels a group", "one basis", "40 bases"])
def test_half_precisions(name, dtype, interpreted):
    tensors = make(SHAPES[name], dtype)
    assert_as_good_as_pytorch(run(interpreted, *tensors), tensors)


@needs_triton
@pytest.mark.parametrize("name", ["kba_k3_gc1", "kba_k3_gc2", "kba_k3_gc4", "kba_k5_gc4"])
def test_the_authors_numbers(name, official, official_index, interpreted):
    t, settings = load_file(official / f"{name}.safetensors"), official_index[name]
    k, g, bases = settings["kernel_size"], settings["channels_per_group"], settings["num_bases"]
    shape = (bases, t["x"].shape[1], g, k, k)
    inputs = (t["x"], t["att"], t["w"].reshape(shape), t["b"][0], t["dy"])
    ours = run(interpreted, *(tensor.float() for tensor in inputs))
    expected = (t["y"], t["dx"], t["datt"], t["dw"].reshape(shape), t["db"][0])
    for key, truth in zip(RESULTS, expected, strict=True):
        torch.testing.assert_close(ours[key].double(), truth, rtol=0, atol=float(2e-6 * truth.abs().max()))


@needs_triton
@pytest.mark.parametrize("programs", [4, 1024], ids=["few parts", "many parts"])
@pytest.mark.parametrize("layout", [channels_last, sliced, transposed])
@pytest.mark.parametrize("shape", [(2, 8, 5, 4, 3, 4, 9), (1, 3, 2, 1, 3, 4, 5)])
def test_memory_formats(shape, layout, programs, interpreted):
    interpreted.limits |= {"PROGRAMS": programs}
    x, coefficients, weight, bias, dy = make(shape)
    straight = run(interpreted, x, coefficients, weight, bias, dy)
    ours = run(interpreted, layout(x), layout(coefficients), weight, bias, layout(dy))
    for name in RESULTS:
        assert torch.equal(ours[name], straight[name]), name
    assert_as_good_as_pytorch(ours, (x, coefficients, weight, bias, dy))
    assert ours["y"].stride() == ours["x"].stride() == torch.empty_like(layout(x)).stride()


@needs_triton
def test_weights_of_any_layout_and_a_gradient_that_is_one_number(interpreted):
    x, coefficients, weight, bias, dy = make(SHAPES["two blocks of pixels"])
    turned = weight.transpose(0, 4).contiguous().transpose(0, 4)
    tensors = (x, coefficients, turned, bias.t().contiguous().t(), dy[:1, :1, :1, :1].expand_as(dy))
    ours = run(interpreted, *tensors)
    assert_as_good_as_pytorch(ours, tensors)
    assert ours["weight"].stride() == torch.empty_like(turned).stride()


@needs_triton
@pytest.mark.parametrize("programs", [1, 60, 1024])
def test_how_sums_are_cut_into_parts_hardly_shows(programs, interpreted):
    # Two blocks of pixels, three of channels.
    tensors = make((1, 40, 3, 4, 1, 11, 13))
    interpreted.limits |= {"PROGRAMS": programs}
    assert_as_good_as_pytorch(run(interpreted, *tensors), tensors)


@needs_triton
@pytest.mark.parametrize(
    "name", ["7x13", "three channels a group", "one group of twenty", "5x5 kernels on a smaller image"]
)
def test_packed_bases_give_the_same(name, interpreted):
    tensors = make(SHAPES[name])
    as_they_lie = run(interpreted, *tensors)
    interpreted.limits |= {"PACKED_FROM": 0}
    packed = run(interpreted, *tensors)
    for result in RESULTS:
        assert torch.equal(packed[result], as_they_lie[result]), result


@needs_triton
def test_without_scratch_memory_it_works_too(interpreted):
    tensors = make((1, 40, 3, 4, 1, 11, 13))
    interpreted.limits |= {"PROGRAMS": 1024, "SCRATCH_BYTES": 0}
    assert_as_good_as_pytorch(run(interpreted, *tensors), tensors)


@needs_triton
@pytest.mark.parametrize("shape", [(0, 4, 3, 2, 3, 5, 5), (1, 4, 3, 2, 3, 0, 5), (1, 4, 3, 2, 3, 5, 0)])
def test_empty_batches_and_images(shape, interpreted):
    x, coefficients, weight, bias, dy = make(shape)
    ours = run(interpreted, x, coefficients, weight, bias, dy)
    assert ours["y"].shape == ours["x"].shape == x.shape
    assert torch.equal(ours["weight"], torch.zeros_like(weight))
    assert torch.equal(ours["bias"], torch.zeros_like(bias))


@needs_triton
def test_values_that_are_nan_spread_no_further_than_they_should(interpreted):
    x, coefficients, weight, bias, dy = make((1, 8, 4, 4, 3, 6, 40))
    touched = torch.zeros_like(x, dtype=torch.bool)
    touched[:, :4, 1:4, 19:22] = True
    x[0, 0, 2, 20] = torch.nan
    assert torch.equal(interpreted.forward(x, coefficients, weight, bias).isnan(), touched)
    dy[0, 0, 2, 20] = torch.nan
    dx = interpreted.backward(dy, x.nan_to_num(), coefficients, weight, bias)[0]
    assert torch.equal(dx.isnan(), touched)


@needs_triton
def test_in_the_interpreter_it_takes_tensors_on_the_cpu(interpreted):
    x, _, weight, _, _ = make(SHAPES["one pixel"])
    assert interpreted.refuses_here() is None
    assert interpreted.refuses(x, weight) is None
    assert "float32, bfloat16 and float16, got torch.float64" in interpreted.refuses(x.double(), weight.double())
    assert "interpreter" in interpreted.describe()


def test_it_says_why_it_cannot_run_a_call_on_the_cpu():
    x, coefficients, weight, bias, _ = make(SHAPES["one pixel"])
    reason = triton.refuses_here() or triton.refuses(x, weight)
    with pytest.raises(BackendError, match=r"'triton' can't run this call") as refusal:
        kernel_basis_attention(x, coefficients, weight, bias, backend="triton")
    assert reason in str(refusal.value)
    assert triton.refuses_here() is None or triton.describe() == f"not available: {triton.refuses_here()}"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    triton._refuses_here.cache_clear()
    try:
        assert "pip install 'kbnet[triton]'" in triton.refuses_here()
    finally:
        triton._refuses_here.cache_clear()


@pytest.mark.slow
def compiler_environment(cache):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return environment | {"TRITON_CACHE_DIR": str(cache)}


@needs_triton
@pytest.mark.slow
def test_it_compiles_for_a_gpu_that_is_not_here_and_spills_nothing(tmp_path):
    child = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "triton_compile.py"), "--quick"],
        capture_output=True,
        text=True,
        env=compiler_environment(tmp_path),
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.endswith("10 kernels, 0 of them spill\n")


LEVELS = """
import re, sys, torch
import triton_compile as compiling
from kbnet.ops import triton as backend
bases = torch.empty(32, 4, 4, 3, 3, device="meta")
for name in ("coefficients_gradient_kernel", "bases_gradient_kernel"):
    chosen = backend.settings(name, bases, torch.float32)
    given = (torch.float32, torch.float32, compiling.strides(32, 4, "packed"), 32, 90)
    text = compiling.compiled_kernel(chosen, *given).asm["ttir"]
    for accumulator in re.findall(r"tt\\.dot %\\w+, %\\w+, (%\\w+)", text):
        within = re.search(rf"scf\\.for %step = .* iter_args\\({accumulator} = %cst", text)  # the inputs of one offset
        print(name, accumulator.startswith("%cst") or within is not None)
"""


@needs_triton
@pytest.mark.slow
def test_exact_sums_are_of_two_levels(tmp_path):
    """No product adds to what is carried from offset to offset, or from one block of pixels to the next.

    Triton joins `total += dot(a, b)` into one chain by itself. What that loses does not show in its interpreter.
    """
    child = subprocess.run(
        [sys.executable, "-c", LEVELS],
        capture_output=True,
        text=True,
        env=compiler_environment(tmp_path) | {"PYTHONPATH": str(ROOT / "benchmarks")},
    )
    assert child.returncode == 0, child.stderr
    found = child.stdout.split()
    assert found.count("coefficients_gradient_kernel") == 2
    assert found.count("bases_gradient_kernel") == 1
    assert set(found[1::2]) == {"True"}


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype):
    larger = [(2, 64, 32, 4, 3, 65, 130), (2, 72, 32, 2, 3, 40, 33), (1, 256, 32, 4, 3, 16, 16)]
    for shape in [*SHAPES.values(), *larger]:
        tensors = make(shape, dtype)
        x, coefficients, weight, bias, dy = (t.cuda() for t in tensors)
        for layout in (torch.clone, channels_last, sliced):
            on_gpu = (layout(x), layout(coefficients), weight, bias, layout(dy))
            ours, again = run(triton, *on_gpu), run(triton, *on_gpu)
            for name in RESULTS:
                assert torch.equal(ours[name], again[name]), f"{name} differs from run to run"
            assert_as_good_as_pytorch({name: t.cpu() for name, t in ours.items()}, tensors)
        chosen = kernel_basis_attention(x, coefficients, weight, bias)
        assert torch.equal(chosen, kernel_basis_attention(x, coefficients, weight, bias, backend="triton"))
