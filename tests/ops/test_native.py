"""The native kernels: every instruction set this machine runs, values and all gradients, against the reference.

A result may err from float64 at most twice what plain PyTorch at the same precision errs, plus a rounding of the
largest value (where PyTorch happens to be exact). Outputs start as NaN (see conftest.py): an unwritten one shows.
"""

import multiprocessing
import os
import platform

import pytest
import torch
from safetensors.torch import load_file

from kbnet.engine.native import unusable_instruction_sets
from kbnet.errors import BackendError
from kbnet.ops import kernel_basis_attention, native, reference

pytestmark = pytest.mark.skipif(
    native.refuses_here() is not None, reason="installed without the native kernel (no compiler)"
)

INSTRUCTION_SETS = () if native.refuses_here() else native.instruction_sets()
RESULTS = ("y", "x", "coefficients", "weight", "bias")

# (B, C, N, G, k, H, W): every remainder of the register tiles, and images smaller than a kernel, a vector or a strip.
SHAPES = {
    "one pixel": (1, 4, 3, 2, 3, 1, 1),
    "a batch of pixels": (5, 4, 8, 4, 3, 1, 1),
    "7x13": (1, 8, 32, 4, 3, 7, 13),
    "one row of many pixels": (2, 4, 9, 2, 3, 1, 203),
    "one column": (1, 4, 5, 4, 3, 67, 1),
    "small images share strips": (11, 8, 16, 4, 3, 8, 8),
    "cut into columns": (1, 4, 8, 2, 3, 9, 131),
    "one channel a group": (2, 5, 7, 1, 3, 6, 9),
    "three channels a group": (1, 6, 4, 3, 3, 5, 17),
    "one group of eight": (1, 8, 6, 8, 3, 4, 19),
    "one basis": (2, 4, 1, 4, 3, 5, 6),
    "24 bases": (1, 4, 24, 4, 3, 6, 40),
    "17 bases, one channel a group": (1, 4, 17, 1, 3, 6, 40),
    "31 bases, two channels a group": (1, 4, 31, 2, 5, 6, 40),
    "18 bases of 1x1": (1, 4, 18, 4, 1, 6, 40),
    "16 bases of 7x7": (1, 4, 16, 4, 7, 9, 40),
    "more than 32 bases": (1, 4, 37, 2, 3, 6, 40),
    "20 bases, one group of eight": (1, 8, 20, 8, 3, 6, 40),
    "33 bases, three channels a group": (1, 6, 33, 3, 3, 6, 40),
    "1x1 kernels": (2, 4, 3, 2, 1, 3, 33),
    "5x5 kernels": (2, 4, 8, 4, 5, 9, 11),
    "7x7 kernels on a smaller image": (2, 2, 2, 2, 7, 3, 2),
}


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", request.param)
    return request.param


def make(shape, dtype=torch.float32, seed=0):
    """x, coefficients, weight, bias and dy, as Gaussians."""
    b, c, n, g, k, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = ((b, c, h, w), (b, n, h, w), (n, c, g, k, k), (n, c), (b, c, h, w))
    return [torch.randn(size, generator=generator).to(dtype) for size in sizes]


def run(backend, x, coefficients, weight, bias, dy):
    y = backend.forward(x, coefficients, weight, bias)
    return dict(zip(RESULTS, (y, *backend.backward(dy, x, coefficients, weight, bias)), strict=True))


def assert_as_good_as_pytorch(tensors):
    """Runs the native kernels on the tensors, compares and returns what they gave."""
    ours, baseline = run(native, *tensors), run(reference, *tensors)
    exact = run(reference, *(t.double() for t in tensors))
    for name in RESULTS:
        assert ours[name].shape == baseline[name].shape
        assert ours[name].dtype == baseline[name].dtype
        error = (ours[name].double() - exact[name]).abs().max()
        allowed = 2 * (baseline[name].double() - exact[name]).abs().max()
        rounding = torch.finfo(ours[name].dtype).eps * exact[name].abs().max()
        assert error <= allowed + rounding, f"{name}: {error:.3g} > {allowed:.3g} + {rounding:.3g}"
    return ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_values_and_gradients(shape, dtype, instruction_set):
    assert_as_good_as_pytorch(make(shape, dtype))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_less_precise_products_only_if_allowed(shape, instruction_set):
    """On a matrix unit, float32 numbers can be sums of two bfloat16 numbers; PyTorch's default doesn't allow that."""
    x, coefficients, weight, bias, _ = tensors = make(shape)
    precise = native.forward(*tensors[:4])
    torch.set_float32_matmul_precision("high")
    try:
        ours = native.forward(*tensors[:4])
    finally:
        torch.set_float32_matmul_precision("highest")
    if not instruction_set.startswith("amx"):
        assert torch.equal(ours, precise)
    # Every product is wrong by up to 2^-16, whatever the sum.
    largest = reference.forward(
        x.double().abs(), coefficients.double().abs(), weight.double().abs(), bias.double().abs()
    )
    error = (ours.double() - reference.forward(*(t.double() for t in tensors[:4]))).abs()
    assert (error <= 2.0**-16 * largest).all(), float((error / largest).max())


@pytest.mark.parametrize("name", ["kba_k3_gc1", "kba_k3_gc2", "kba_k3_gc4", "kba_k5_gc4"])
def test_the_authors_numbers(name, official, official_index, instruction_set):
    t, settings = load_file(official / f"{name}.safetensors"), official_index[name]
    k, g, bases = settings["kernel_size"], settings["channels_per_group"], settings["num_bases"]
    shape = (bases, t["x"].shape[1], g, k, k)
    inputs = (t["x"], t["att"], t["w"].reshape(shape), t["b"][0], t["dy"])
    ours = run(native, *(tensor.float() for tensor in inputs))
    expected = (t["y"], t["dx"], t["datt"], t["dw"].reshape(shape), t["db"][0])
    for key, truth in zip(RESULTS, expected, strict=True):
        torch.testing.assert_close(ours[key].double(), truth, rtol=0, atol=float(2e-6 * truth.abs().max()))


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


def sliced(t):
    """The same values as a window of a larger image, every second column of it."""
    larger = t.new_full((t.shape[0], t.shape[1] + 1, t.shape[2] + 2, 2 * t.shape[3] + 3), torch.nan)
    view = larger[:, 1:, 1:-1, 2:-1:2]
    return view.copy_(t)


def transposed(t):
    """The same values with rows and columns exchanged in memory."""
    return t.transpose(2, 3).contiguous().transpose(2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [channels_last, sliced, transposed])
@pytest.mark.parametrize("shape", [(2, 8, 5, 4, 3, 9, 70), (1, 6, 8, 2, 3, 5, 101), (1, 3, 2, 1, 3, 4, 5)])
def test_memory_formats(shape, layout, dtype, instruction_set):
    x, coefficients, weight, bias, dy = make(shape, dtype)
    straight = run(native, x, coefficients, weight, bias, dy)
    ours = assert_as_good_as_pytorch([layout(x), layout(coefficients), weight, bias, layout(dy)])
    for name in RESULTS:
        assert torch.equal(ours[name], straight[name]), name
    assert ours["x"].stride() == torch.empty_like(layout(x)).stride()


def test_weights_of_any_layout(instruction_set):
    x, coefficients, weight, bias, dy = make(SHAPES["7x13"])
    turned = weight.transpose(0, 4).contiguous().transpose(0, 4)
    ours = assert_as_good_as_pytorch([x, coefficients, turned, bias.t().contiguous().t(), dy])
    assert ours["weight"].stride() == torch.empty_like(turned).stride()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["7x13", "small images share strips", "one column", "5x5 kernels", "one pixel"])
def test_any_number_of_threads(name, threads):
    tensors, before = make(SHAPES[name]), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = assert_as_good_as_pytorch(tensors), run(native, *tensors)
    finally:
        torch.set_num_threads(before)
    for key in RESULTS:
        assert torch.equal(first[key], second[key]), f"{key} differs from run to run"


def test_wide_images_work_on_a_part_of_the_channels_at_a_time():
    """A few rows of all channels would not fit a thread's memory."""
    assert_as_good_as_pytorch(make((1, 128, 2, 1, 3, 4, 6000)))


def test_empty_batches():
    x, coefficients, weight, bias, dy = make((0, 4, 3, 2, 3, 5, 5))
    ours = run(native, x, coefficients, weight, bias, dy)
    assert ours["y"].shape == ours["x"].shape == x.shape
    assert not ours["weight"].any()
    assert not ours["bias"].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("where", ["x", "dy", "coefficients"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_and_gradients_that_are_nan_or_infinite_spread_no_further_than_they_should(
    where, value, dtype, instruction_set
):
    """One value of one tensor: what it does not reach stays as it was without it, and what it reaches is not finite."""
    names = ("x", "coefficients", "weight", "bias", "dy")
    tensors = dict(zip(names, make((1, 8, 4, 4, 3, 6, 40), dtype), strict=True))
    clean = run(native, *tensors.values())
    tensors[where][0, 0, 2, 20] = value
    dirty = run(native, *tensors.values())
    group, around, here = slice(0, 4), (slice(1, 4), slice(19, 22)), (slice(2, 3), slice(20, 21))
    everything = slice(None)
    reached = {
        "x": {"y": (0, group, *around), "coefficients": (0, everything, *around), "weight": (everything, group, 0)},
        # Of basis 0 alone, at its own pixel; the gradient of x reads coefficients around it.
        "coefficients": {
            "y": (0, everything, *here),
            "x": (0, everything, *around),
            "weight": (0,),
            "bias": (0,),
        },
        "dy": {
            "x": (0, group, *around),
            "coefficients": (0, everything, *here),
            "weight": (everything, 0),
            "bias": (everything, 0),
        },
    }[where]
    for name in RESULTS:
        touched = torch.zeros_like(clean[name], dtype=torch.bool)
        if name in reached:
            touched[reached[name]] = True
        assert torch.equal(dirty[name][~touched], clean[name][~touched]), name
        assert not dirty[name][touched].isfinite().any(), name
        if value != value:
            assert dirty[name][touched].isnan().all(), name


def test_it_is_chosen_by_itself_and_explains_itself():
    x, coefficients, weight, bias, _ = make(SHAPES["7x13"])
    chosen = kernel_basis_attention(x, coefficients, weight, bias)
    assert torch.equal(chosen, kernel_basis_attention(x, coefficients, weight, bias, backend="native"))
    with pytest.raises(BackendError, match=r"float32 and bfloat16, got torch\.float64"):
        kernel_basis_attention(x.double(), coefficients.double(), weight.double(), bias.double(), backend="native")
    assert native.instruction_sets()[0] in native.describe() or os.environ.get("KBNET_INSTRUCTION_SET")


def test_every_instruction_set_is_usable_or_says_why_not():
    usable, unusable = set(native.instruction_sets()), unusable_instruction_sets()
    assert usable.isdisjoint(unusable)
    assert all(unusable.values())
    if platform.machine() == "x86_64":
        assert {"avx2", "avx512", "avx512bf16", "portable"} <= usable | unusable.keys()
        assert {"amx", "amx_emulated"} & (usable | unusable.keys())


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", "abacus")
    x, coefficients, weight, bias, _ = make(SHAPES["one pixel"])
    with pytest.raises(BackendError, match=r"KBNET_INSTRUCTION_SET is 'abacus', but this machine supports .*portable"):
        kernel_basis_attention(x, coefficients, weight, bias, backend="native")
    assert "abacus" in native.describe()


FORK = """
import os, sys, warnings, torch
os.environ["KBNET_THREAD_SOURCE"] = sys.argv[1]
from kbnet.ops import native
torch.manual_seed(0)
torch.set_num_threads(2)
tensors = torch.randn(4, 8, 32, 32), torch.randn(4, 8, 32, 32), torch.randn(8, 8, 4, 3, 3), torch.randn(8, 8)
before = native.forward(*tensors)
warnings.simplefilter("ignore")  # newer Pythons warn about forking a process with threads: that is what is tested
child = os.fork()
if child == 0:
    torch.set_num_threads(2)  # the kernels have threads of their own there; torch does not
    same = [torch.equal(native.forward(*tensors), before) for _ in range(3)]
    os._exit(0 if all(same) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(native.describe())
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.parametrize("source", ["", "own"])
def test_it_works_after_fork_and_on_threads_of_its_own(source, run_python):
    described = run_python(FORK, source)
    assert source != "own" or "own threads" in described
