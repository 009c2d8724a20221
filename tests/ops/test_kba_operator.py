"""The operator as a citizen of PyTorch: schema, gradient, compiler, export, autocast; and what it refuses."""

import kba_cases
import pytest
import torch

from kbnet.errors import BackendError, InvalidInputError
from kbnet.ops import available_backends, kernel_basis_attention

TINY = {
    name: kba_cases.SHAPES[name] for name in ("plain", "one pixel", "one basis", "5x5 kernel", "one channel a group")
}


@pytest.mark.parametrize("backend", kba_cases.CPU_BACKENDS)
@pytest.mark.parametrize("shape", TINY.values(), ids=TINY.keys())
def test_opcheck_finds_no_fault(shape, backend):
    tensors = kba_cases.make(shape, torch.float32)
    torch.library.opcheck(torch.ops.kbnet.kernel_basis_attention.default, (*tensors, backend))


@pytest.mark.parametrize("frozen", range(4), ids=kba_cases.NAMES)
def test_opcheck_finds_no_fault_when_an_input_wants_no_gradient(frozen):
    tensors = kba_cases.make((1, 4, 3, 2, 3, 3, 5), torch.float32)
    tensors[frozen].requires_grad_(False)
    torch.library.opcheck(torch.ops.kbnet.kernel_basis_attention.default, (*tensors, "auto"))


@pytest.mark.parametrize("layout", ["channels last", "weight with moved axes", "bias transposed"])
def test_opcheck_finds_no_fault_in_any_memory_layout(layout):
    x, a, weight, bias = (t.detach() for t in kba_cases.make((2, 8, 3, 4, 3, 4, 5), torch.float32))
    if layout == "channels last":
        x, a = (t.contiguous(memory_format=torch.channels_last) for t in (x, a))
    elif layout == "weight with moved axes":
        weight = weight.movedim(0, -1).contiguous().movedim(-1, 0)
    else:
        bias = bias.t().contiguous().t()
    tensors = [t.requires_grad_() for t in (x, a, weight, bias)]
    torch.library.opcheck(torch.ops.kbnet.kernel_basis_attention.default, (*tensors, "auto"))


# Finite differences cost two forwards a value, so these are as small as they can be and still differ in every axis.
DIFFERENTIATED = {
    "one pixel": (1, 2, 2, 2, 3, 1, 1),
    "3x5": (1, 2, 1, 1, 3, 3, 5),
    "one basis": (2, 2, 1, 2, 3, 2, 3),
    "5x5 kernel": (1, 1, 2, 1, 5, 3, 2),
}


@pytest.mark.parametrize("shape", DIFFERENTIATED.values(), ids=DIFFERENTIATED.keys())
def test_the_gradient_is_the_derivative(shape):
    assert torch.autograd.gradcheck(kernel_basis_attention, kba_cases.make(shape))


def test_only_inputs_that_want_a_gradient_get_one():
    x, a, weight, bias = kba_cases.make((1, 4, 3, 2, 3, 3, 5))
    kernel_basis_attention(x.detach(), a, weight.detach(), bias).sum().backward()
    assert x.grad is None
    assert weight.grad is None
    assert a.grad is not None
    assert bias.grad is not None


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_compiler_keeps_the_operator_whole(backend, dynamic):
    def layer(x, a, weight, bias):
        return kernel_basis_attention(torch.relu(x), a, weight, bias).tanh()

    tensors = kba_cases.make((1, 4, 3, 2, 3, 6, 5), torch.float32)
    dy = torch.randn(1, 4, 6, 5)
    torch.compiler.reset()
    # fullgraph: a break of the graph at the operator would be an error.
    compiled = torch.compile(layer, backend=backend, fullgraph=True, dynamic=dynamic)
    ours = kba_cases.with_gradients(compiled, tensors, dy)
    expected = kba_cases.with_gradients(layer, tensors, dy)
    for key in expected:
        torch.testing.assert_close(ours[key], expected[key])


def test_export_keeps_the_operator_whole_at_any_image_size():
    class Layer(torch.nn.Module):
        def forward(self, x, a, weight, bias):
            return kernel_basis_attention(x, a, weight, bias)

    tensors = tuple(t.detach() for t in kba_cases.make((1, 4, 3, 2, 3, 6, 5), torch.float32))
    height, width = torch.export.Dim("height", min=2), torch.export.Dim("width", min=2)
    sides = {2: height, 3: width}
    program = torch.export.export(Layer(), tensors, dynamic_shapes=(sides, sides, None, None))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets == ["kbnet.kernel_basis_attention.default"]
    other = [t.detach() for t in kba_cases.make((1, 4, 3, 2, 3, 9, 8), torch.float32)]
    torch.testing.assert_close(program.module()(*other), kernel_basis_attention(*other))


def test_a_call_on_meta_tensors_gives_the_shape_alone():
    tensors = [t.detach().to("meta") for t in kba_cases.make((2, 8, 3, 4, 3, 40, 50))]
    y = kernel_basis_attention(*tensors)
    assert (y.device.type, y.shape) == ("meta", (2, 8, 40, 50))


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
def test_autocast_means_bfloat16_because_float16_overflows_in_these_networks(autocast_dtype):
    tensors = kba_cases.make((1, 4, 3, 2, 3, 3, 5), torch.float32)
    with torch.autocast("cpu", autocast_dtype):
        y = kernel_basis_attention(*tensors)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), kernel_basis_attention(*tensors), rtol=0.05, atol=0.1)
    y.float().sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


def test_autocast_brings_tensors_of_two_precisions_together():
    x, a, weight, bias = kba_cases.make((1, 4, 3, 2, 3, 3, 5), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert kernel_basis_attention(x.bfloat16(), a, weight, bias).dtype == torch.bfloat16


def test_every_available_backend_can_be_asked_for_by_name():
    tensors = [t.detach() for t in kba_cases.make((1, 4, 3, 2, 3, 5, 7), torch.float32)]
    expected = kernel_basis_attention(*tensors)
    assert available_backends()[-1] == "reference"  # the one that runs everything is the last resort
    assert set(kba_cases.CPU_BACKENDS) <= set(available_backends())
    for name in kba_cases.CPU_BACKENDS:
        torch.testing.assert_close(kernel_basis_attention(*tensors, backend=name), expected)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(BackendError, match=r"expected backend 'auto' or one of .*'reference'.*got 'cudnn'"):
        kernel_basis_attention(*kba_cases.make((1, 4, 3, 2, 3, 3, 5)), backend="cudnn")


def replaced(position, tensor):
    tensors = [t.detach() for t in kba_cases.make((2, 6, 3, 2, 3, 4, 5), torch.float32)]
    tensors[position] = tensor
    return tensors


REFUSED = {
    "x of three axes": (0, torch.zeros(6, 4, 5), r"expected x \[B,C,H,W\].*got \[6, 4, 5\]"),
    "x of another batch": (0, torch.zeros(1, 6, 4, 5), r"expected coefficients .*\[1, 3, 4, 5\].*got \[2, 3, 4, 5\]"),
    "x of other channels": (0, torch.zeros(2, 8, 4, 5), r"expected weight .*C = 8.*got \[3, 6, 2, 3, 3\]"),
    "coefficients of another height": (1, torch.zeros(2, 3, 3, 5), r"\[2, 3, 4, 5\], got \[2, 3, 3, 5\]"),
    "coefficients of other bases": (1, torch.zeros(2, 4, 4, 5), r"\[2, 3, 4, 5\], got \[2, 4, 4, 5\]"),
    "coefficients of three axes": (1, torch.zeros(3, 4, 5), r"coefficients \[B,N,H,W\].*got .*\[3, 4, 5\]"),
    "weight in the authors' shape": (2, torch.zeros(1, 3, 108), r"weight \[N,C,G,k,k\].*got .*\[1, 3, 108\]"),
    "channels not divisible by the group": (
        2,
        torch.zeros(3, 6, 4, 3, 3),
        r"C = 6 divisible by G, got \[3, 6, 4, 3, 3\]",
    ),
    "groups of no channel": (2, torch.zeros(3, 6, 0, 3, 3), r"C = 6 divisible by G, got \[3, 6, 0, 3, 3\]"),
    "an even kernel": (2, torch.zeros(3, 6, 2, 4, 4), r"expected a square kernel of odd size, got 4x4"),
    "an oblong kernel": (2, torch.zeros(3, 6, 2, 3, 1), r"expected a square kernel of odd size, got 3x1"),
    "a kernel of no taps": (2, torch.zeros(3, 6, 2, 0, 0), r"expected a square kernel of odd size, got 0x0"),
    "bias of other channels": (3, torch.zeros(3, 5), r"expected bias \[N,C\] = \[3, 6\], got \[3, 5\]"),
    "bias transposed": (3, torch.zeros(6, 3), r"expected bias \[N,C\] = \[3, 6\], got \[6, 3\]"),
    "one tensor of another dtype": (3, torch.zeros(3, 6).double(), r"expected four tensors of one float dtype, got"),
    "one tensor on another device": (
        3,
        torch.zeros(3, 6, device="meta"),
        r"expected four tensors on the same device, got .*meta",
    ),
}


@pytest.mark.parametrize(("position", "tensor", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_and_the_message_says_what_came(position, tensor, message):
    with pytest.raises(InvalidInputError, match=message):
        kernel_basis_attention(*replaced(position, tensor))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.complex64, torch.bool])
def test_tensors_that_are_not_real_floats_are_refused(dtype):
    tensors = [t.detach().to(dtype) for t in kba_cases.make((1, 4, 3, 2, 3, 3, 5), torch.float32)]
    with pytest.raises(InvalidInputError, match="expected four tensors of one float dtype"):
        kernel_basis_attention(*tensors)


@pytest.mark.parametrize("backend", kba_cases.CPU_BACKENDS)
@pytest.mark.parametrize("shape", [(0, 4, 3, 2, 3, 3, 5), (1, 4, 3, 2, 3, 0, 5), (1, 4, 3, 2, 3, 3, 0)])
def test_an_empty_batch_or_image_gives_an_empty_result_and_zero_gradients(shape, backend):
    tensors = kba_cases.make(shape, torch.float32)
    y = kernel_basis_attention(*tensors, backend=backend)
    assert y.shape == tensors[0].shape
    y.sum().backward()
    assert all(bool((t.grad == 0).all()) for t in tensors)


@pytest.mark.parametrize("shape", [(1, 4, 0, 2, 3, 3, 5), (1, 0, 3, 2, 3, 3, 5)], ids=["no bases", "no channels"])
def test_no_bases_or_no_channels_are_refused(shape):
    with pytest.raises(InvalidInputError, match="expected"):
        kernel_basis_attention(*kba_cases.make(shape))
