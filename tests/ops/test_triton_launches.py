"""What the Triton backend launches: how much a call takes, and that torch.compile sees it.

Graphs are traced on the CPU, in processes of their own: one where Triton compiles for a GPU that is not there (what
each kernel writes is read from its code), and one where the launches of the graph run in Triton's interpreter.
"""

import dataclasses
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import kba_cases
import pytest
import torch
from test_triton import start_interpreter
from torch.utils._python_dispatch import TorchDispatchMode

from kbnet.models import create_model
from kbnet.ops import backends, kernel_basis_attention, triton

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")

SETTINGS = {"width": 4, "encoder_blocks": [1], "middle_blocks": 0, "decoder_blocks": [1], "bases": 2}
WRITES = {
    "apply_kernel": ["y_ptr"],
    "coefficients_gradient_kernel": ["da_ptr"],
    "bases_gradient_kernel": ["dw_ptr", "db_ptr"],
    "fold_kernel": ["da_ptr", "dw_ptr", "db_ptr"],
}


def triton_alone():
    """The Triton backend for every call, tensors on the CPU among them; what was there before."""
    before = backends.BACKENDS
    (chosen,) = (b for b in before if b.name == "triton")
    anywhere = lambda *_: None  # noqa: E731
    backends.BACKENDS = (dataclasses.replace(chosen, refuses_here=anywhere, refuses=anywhere),)
    return before


@pytest.fixture
def only_triton():
    before = triton_alone()
    yield
    backends.BACKENDS = before


class Launches(TorchDispatchMode):
    """Names of what a GPU would run: the backend's kernels, and PyTorch's operators but views and allocations."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.names = []
        monkeypatch.setattr(triton, "_launch", lambda chosen, *_: self.names.append(chosen.kernel))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "kbnet":  # with what it does inside
            with self:
                inner = triton.backward if "backward" in function.name() else triton.forward
                return inner(*args[:-1])
        with self:
            inside = function.decompose(*args, **(kwargs or {}))  # of what is made of other operators
        if inside is not NotImplemented:
            return inside
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        if not view and "empty" not in function.name():
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


FORWARD = ["apply_kernel"]
BACKWARD = ["apply_kernel", "coefficients_gradient_kernel", "bases_gradient_kernel", "fold_kernel"]


def launches_of_a_call(monkeypatch, shape, layout=torch.contiguous_format, autocast=False):
    x, a, weight, bias = kba_cases.make(shape, torch.float32)
    if autocast:  # features are as the convolution before them leaves them, parameters are float32
        x, a = (t.detach().bfloat16().requires_grad_() for t in (x, a))
    x, a = (t.detach().contiguous(memory_format=layout).requires_grad_() for t in (x, a))
    dy = torch.randn_like(x)
    with Launches(monkeypatch) as launches:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = kernel_basis_attention(x, a, weight, bias)
        torch.autograd.backward(y, dy)
    assert all(t.grad is not None for t in (x, a, weight, bias))
    return launches.names


LEVELS = {"first level": (4, 16, 32, 4, 3, 64, 64), "deepest level": (2, 256, 32, 4, 3, 8, 8)}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("shape", LEVELS.values(), ids=LEVELS.keys())
def test_a_call_forward_and_backward_takes_five_launches(shape, layout, only_triton, monkeypatch):
    assert launches_of_a_call(monkeypatch, shape, layout) == FORWARD + BACKWARD


def test_under_autocast_only_casts_of_parameters_and_of_their_gradients_are_added(only_triton, monkeypatch):
    names = launches_of_a_call(monkeypatch, LEVELS["first level"], autocast=True)
    casts = ["aten::_to_copy"] * 2
    assert names == casts + FORWARD + BACKWARD + casts


def test_nothing_is_folded_where_nothing_was_cut(only_triton, monkeypatch):
    monkeypatch.setattr(triton, "PROGRAMS", 1)
    assert launches_of_a_call(monkeypatch, LEVELS["first level"]) == FORWARD + BACKWARD[:-1]


def test_large_images_pack_the_bases_once_in_each_direction(only_triton, monkeypatch):
    monkeypatch.setattr(triton, "PACKED_FROM", 0)
    names = launches_of_a_call(monkeypatch, LEVELS["first level"])
    assert names == ["aten::clone", *FORWARD, "aten::clone", *BACKWARD]


def pretend_there_is_a_gpu():
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Hopper:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

    driver.set_active(Hopper())
    os.environ["KBNET_FUSED"] = "off"  # layers, which alone call the operator
    torch.set_num_threads(1)


def nodes(graph):
    """Kernel and what it writes, of each launch in a graph; names of kbnet's operators."""
    from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional

    found = []
    for node in graph.graph.nodes:
        if node.target is triton_kernel_wrapper_functional:
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"]).fn
            found.append((kernel.fn.__name__, sorted(node.kwargs["tensors_to_clone"])))
        elif "kbnet" in str(node.target):
            found.append(str(node.target))
    return found


def trace(shape, *, dynamic=False, network=False, export=False, autocast=False):
    """In a process without the interpreter: launches of the graphs forward and backward, and those of a plain call."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from triton.runtime.jit import JITFunction

    triton_alone()
    ran = []
    JITFunction.run = lambda self, *_, grid, **__: ran.append((self.fn.__name__, grid[0]))
    graphs = []

    def keep(graph, inputs):
        graphs.append(nodes(graph))
        return make_boxed_func(graph.forward)

    if network:
        torch.manual_seed(0)
        layer, tensors = create_model("kbnet-nano", **SETTINGS), [torch.rand(2, 3, 8, 8)]
    else:
        layer = lambda x, a, weight, bias: kernel_basis_attention(torch.relu(x), a, weight, bias).tanh()  # noqa: E731
        tensors = kba_cases.make(shape, torch.float32)
    if export:
        return nodes(torch.export.export(layer, tuple(tensors)))
    torch.compiler.reset()
    compiled = torch.compile(
        layer, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True, dynamic=dynamic
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = compiled(*tensors)
    y.sum().backward()
    traced_ran = ran.copy()
    ran.clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(*tensors)
    y.sum().backward()
    return {"graphs": graphs, "compiled": traced_ran, "plain": ran, "known": _known()}


def _known():
    from torch._library.triton import get_triton_kernels_for_op

    return [kernel.fn.__name__ for kernel in get_triton_kernels_for_op("kbnet::kernel_basis_attention")]


@pytest.fixture(scope="module")
def compiling():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=pretend_there_is_a_gpu) as pool:
        yield lambda *args, **kwargs: pool.submit(trace, *args, **kwargs).result()


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True], ids=["one size", "any size"])
def test_the_compiler_sees_every_launch_and_what_it_writes(dynamic, compiling):
    traced = compiling((2, 8, 32, 4, 3, 20, 24), dynamic=dynamic)
    assert traced["graphs"] == [[(name, sorted(WRITES[name])) for name in names] for names in (FORWARD, BACKWARD)]
    assert [name for name, _ in traced["plain"]] == FORWARD + BACKWARD
    assert traced["compiled"] == traced["plain"]  # the same kernels, on grids of the same size
    assert set(traced["known"]) == set(WRITES)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_a_whole_network_is_one_graph_with_its_launches_in_it(autocast, compiling):
    traced = compiling(None, network=True, autocast=autocast)
    assert len(traced["graphs"]) == 2
    names = [[launch[0] for launch in graph] for graph in traced["graphs"]]
    assert names == [FORWARD * 2, BACKWARD * 2]
    assert sorted(traced["compiled"]) == sorted(traced["plain"])


@needs_triton
@pytest.mark.slow
def test_exported_programs_keep_the_operator_whole(compiling):
    assert compiling(None, network=True, export=True) == ["kbnet.kernel_basis_attention.default"] * 2


def compiled_and_interpreted(autocast):
    """In the interpreter's process: value and gradients of a compiled network, and of its layers by the reference."""
    import torch._higher_order_ops.triton_kernel_wrap as wrapping
    from triton.runtime.jit import JITFunction

    pretend_there_is_a_gpu()

    class Interpreted(JITFunction):
        """A kernel for the compiler's books, which runs in the interpreter."""

        def __init__(self, interpreted):
            super().__init__(interpreted.fn)
            self.interpreted = interpreted

        cache_key = property(lambda self: self.fn.__name__)

        def run(self, *args, grid, warmup, **options):
            ran.append(self.fn.__name__)
            return self.interpreted[grid](*args, **options)

    def writes(kernel_idx, constant_args_idx, kwargs, metadata):
        return WRITES[wrapping.kernel_side_table.get_kernel(kernel_idx).fn.fn.__name__]

    wrapping.get_mutated_tensors = writes  # which it would find out by compiling
    torch.library.wrap_triton = lambda kernel: wrapping.TraceableTritonKernelWrapper(Interpreted(kernel), None, None)
    triton.traceable = lambda: True
    ran = []
    torch.manual_seed(0)
    network, x = create_model("kbnet-nano", **SETTINGS), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("_scale"):
                parameter.fill_(0.5)

    def results(function):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = function(x)
        y.float().square().sum().backward()
        return {"y": y.detach().float()} | {name: p.grad.clone() for name, p in network.named_parameters()}

    before = triton_alone()
    torch.use_deterministic_algorithms(False)
    ours = results(torch.compile(network, backend="aot_eager", fullgraph=True))
    backends.BACKENDS = tuple(b for b in before if b.name == "reference")
    return {name: t.numpy() for name, t in ours.items()}, {n: t.numpy() for n, t in results(network).items()}, ran


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("autocast", "limit"), [(False, 1e-5), (True, 0.05)], ids=["float32", "bfloat16"])
def test_a_compiled_network_computes_what_its_layers_do(autocast, limit):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=start_interpreter) as pool:
        ours, expected, ran = pool.submit(compiled_and_interpreted, autocast).result()
    assert sorted(ran) == sorted(2 * (FORWARD + BACKWARD))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        found, truth = torch.from_numpy(ours[name]), torch.from_numpy(value)
        assert (found - truth).norm() <= limit * truth.norm() + 1e-6, name


def compiled_by_inductor(shape, cache):
    """Kernels that Inductor compiled for a GPU that is not there, to the last step but loading them."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1", "TRITON_CACHE_DIR": cache}
    import torch._inductor.runtime.triton_heuristics as heuristics
    from triton.backends.compiler import GPUTarget

    compiled, ran = [], []

    def target(*_):
        compiled.append("sm_90")
        return GPUTarget("cuda", 90, 32)

    heuristics.GPUTarget = target
    heuristics.CachingAutotuner._make_launchers = lambda self: None
    heuristics.CachingAutotuner.run = lambda self, *_, **__: ran.append(self.fn.__name__)
    triton_alone()
    tensors = kba_cases.make(shape, torch.float32)
    y = torch.compile(kernel_basis_attention, fullgraph=True)(*tensors)
    torch.autograd.backward(y, torch.randn_like(y))
    return len(compiled), ran


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "launches"),
    [((2, 8, 32, 4, 3, 20, 24), FORWARD + BACKWARD), ((1, 1, 1, 1, 1, 1, 1), FORWARD + BACKWARD[:-1])],
    ids=["plain", "every size is 1"],
)
def test_inductor_compiles_the_kernels_which_takes_ones_for_constants(shape, launches, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=pretend_there_is_a_gpu) as pool:
        compiled, ran = pool.submit(compiled_by_inductor, shape, str(tmp_path)).result()
    assert ran == launches
    assert compiled == len(launches)
