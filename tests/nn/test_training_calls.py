"""Blocks trained as one call per half against their own layers: values and every gradient, on every instruction set.

A result may err from float64 at most twice what the layers err in float32, plus some roundings of the largest value,
since errors pass through a dozen layers and sums that cancel. Outputs start as NaN (see conftest.py): an unwritten one
shows.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kbnet.description import FEED_FORWARD, FUSION, describe
from kbnet.errors import BackendError, InvalidInputError
from kbnet.nn import FullFrame, KBBlockL, KBBlockS, fused
from kbnet.nn.context import Gather
from kbnet.ops import native, register_flop_formulas

pytestmark = pytest.mark.skipif(
    native.refuses_here() is not None, reason="installed without the native kernel (no compiler)"
)

INSTRUCTION_SETS = () if native.refuses_here() else native.instruction_sets()
ROUNDINGS = 32

# Settings of the block, and (B, H, W): every remainder of the register tiles, images smaller than a vector.
CASES = {
    "one pixel": ({"channels": 4, "coefficient_width": 2, "bases": 3, "group_channels": 2}, (1, 1, 1)),
    "a batch of pixels": ({"channels": 8, "coefficient_width": 8, "bases": 8}, (7, 1, 1)),
    "5x7": ({"channels": 8, "coefficient_width": 4, "bases": 5, "group_channels": 2}, (2, 5, 7)),
    "small images share a strip": ({"channels": 16, "coefficient_width": 8, "bases": 8}, (9, 4, 4)),
    "one row": ({"channels": 4, "coefficient_width": 4, "bases": 9}, (2, 1, 70)),
    "one column": ({"channels": 4, "coefficient_width": 4, "bases": 4}, (2, 37, 1)),
    "strips of an image": ({"channels": 8, "coefficient_width": 8, "bases": 8}, (2, 23, 33)),
    "six channels, three a head": (
        {"channels": 6, "coefficient_width": 2, "bases": 1, "group_channels": 3, "ffn_scale": 1.0},
        (3, 6, 9),
    ),
    "5x5 kernels, a wide feed-forward": (
        {"channels": 10, "coefficient_width": 10, "bases": 6, "group_channels": 1, "kernel_size": 5, "ffn_scale": 3.0},
        (2, 7, 18),
    ),
}


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", request.param)
    return request.param


def make(settings, shape, lightweight=True):
    """A block whose parameters are all of importance, its input and the gradient of its output."""
    torch.manual_seed(0)
    block = KBBlockS(**settings, lightweight=lightweight)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("scale") or "norm" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5 + 0.3)
    b, h, w = shape
    return block, torch.randn(b, settings["channels"], h, w), torch.randn(b, settings["channels"], h, w)


def run(block, x, dy):
    """The output and the gradients of x and of every parameter."""
    x = x.detach().requires_grad_()
    block.zero_grad()
    y = block(x, FullFrame())
    y.backward(dy)
    return {"y": y.detach(), "x": x.grad, **{name: p.grad.clone() for name, p in block.named_parameters()}}


def assert_as_good_as_layers(monkeypatch, block, x, dy, whole=True):
    """Runs the block as calls of the kernels, compares and returns what they gave."""
    plan = fused.plan(block, x, FullFrame())
    assert plan.feed_forward is None
    assert (plan.fusion is None) == whole
    ours = run(block, x, dy)
    with monkeypatch.context() as patch:
        patch.setenv("KBNET_FUSED", "off")
        assert fused.plan(block, x, FullFrame()) == fused.Plan("KBNET_FUSED is off", "KBNET_FUSED is off")
        baseline = run(block, x, dy)
        exact = run(block.double(), x.double(), dy.double())
        block.float()
    for name, truth in exact.items():
        assert ours[name].shape == truth.shape
        error, allowed = ((t[name].double() - truth).abs().max() for t in (ours, baseline))
        rounding = ROUNDINGS * torch.finfo(torch.float32).eps * truth.abs().max()
        assert error <= 2 * allowed + rounding, f"{name}: {error:.3g} > 2 * {allowed:.3g} + {rounding:.3g}"
    return ours


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, instruction_set, monkeypatch):
    assert_as_good_as_layers(monkeypatch, *make(*CASES[case]))


def test_only_the_feed_forward_half_where_the_static_branch_is_not_depthwise(monkeypatch):
    assert_as_good_as_layers(monkeypatch, *make(*CASES["strips of an image"], lightweight=False), whole=False)


def sliced(t):
    larger = torch.full((t.shape[0], t.shape[1] + 1, t.shape[2] + 2, 2 * t.shape[3] + 3), torch.nan)
    return larger[:, 1:, 1:-1, 2:-1:2].copy_(t)


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [channels_last, sliced, lambda t: t.mT.contiguous().mT], ids=["last", "sliced", "T"])
def test_memory_formats(layout, instruction_set, monkeypatch):
    block, x, dy = make(*CASES["5x7"])
    straight = run(block, x, dy)
    block.to(memory_format=torch.channels_last)
    ours = assert_as_good_as_layers(monkeypatch, block, layout(x), layout(dy))
    for name, value in straight.items():
        assert torch.equal(ours[name], value), name


def test_a_gradient_of_stride_zero(monkeypatch):
    block, x, _ = make(*CASES["5x7"])
    assert_as_good_as_layers(monkeypatch, block, x, torch.tensor(0.7).expand(x.shape))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads, monkeypatch):
    block, x, dy = make({"channels": 8, "coefficient_width": 8, "bases": 8}, (5, 6, 11))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = assert_as_good_as_layers(monkeypatch, block, x, dy), run(block, x, dy)
    finally:
        torch.set_num_threads(before)
    for name, value in first.items():
        assert torch.equal(value, second[name]), f"{name} differs from run to run"


def test_an_empty_batch_gives_no_gradient():
    block, x, dy = make(*CASES["5x7"])
    results = run(block, x[:0], dy[:0])
    assert results.pop("y").shape == results.pop("x").shape == x[:0].shape
    assert not any(gradient.any() for gradient in results.values())


def halves():
    block, x, _ = make({"channels": 4, "coefficient_width": 4, "bases": 3, "group_channels": 2}, (2, 3, 5))
    described = describe(block.settings)
    layers = [block.get_parameter(described.feed_forward[role]) for role in FEED_FORWARD]
    fusion_layers = [block.get_parameter(described.fusion[role]) for role in FUSION]
    x.requires_grad_()
    return {
        "feed_forward": (torch.ops.kbnet.feed_forward.default, (x, layers, 1e-6, True)),
        "fusion": (torch.ops.kbnet.fusion.default, (x, fusion_layers, 2, 3, 1e-6)),
    }


@pytest.mark.parametrize("half", ["feed_forward", "fusion"])
def test_opcheck_finds_no_fault(half):
    torch.library.opcheck(*halves()[half])


def operations(function, *inputs, backward=False):
    """What torch's counter sees. It hooks all modules, so of a block it sees the layers."""
    register_flop_formulas()
    with FlopCounterMode(display=False) as counter:
        y = function(*inputs)
        if backward:
            y.sum().backward()
    return counter.get_flop_counts()["Global"]


def both_halves(block, x):
    """As the block calls them."""
    return fused.feed_forward(block, fused.fusion(block, x), False)


def test_operations_are_counted_as_those_of_the_layers():
    block, x, _ = make({"channels": 6, "coefficient_width": 2, "bases": 5, "group_channels": 3}, (3, 4, 7))
    ours = operations(both_halves, block, x)
    assert set(ours) == {torch.ops.kbnet.fusion, torch.ops.kbnet.feed_forward}
    layers = operations(block, x, FullFrame())
    assert set(layers) == {torch.ops.aten.convolution, torch.ops.kbnet.kernel_basis_attention}
    assert sum(ours.values()) == sum(layers.values()) > 0


def test_operations_of_the_backward_pass_include_what_is_computed_again():
    c, n, g, head, pixels, batch = 8, 5, 2, 4, 3 * 4 * 7, 3
    settings = {"channels": c, "coefficient_width": head, "bases": n, "group_channels": g}
    block, x, _ = make(settings, (batch, 4, 7))
    ours = operations(both_halves, block, x.requires_grad_(), backward=True)
    first, second = 2 * c * c, c * c
    assert ours[torch.ops.kbnet.feed_forward_backward] == 2 * pixels * (3 * first + 2 * second)
    branches = 2 * (c * c + 9 * c) + 9 * c + n * head // 2 + n * c
    bases = 3 * n * c * g * 9 + 2 * n * c
    a_pixel = 3 * branches + 2 * c * c + bases
    assert ours[torch.ops.kbnet.fusion_backward] == 2 * (pixels * a_pixel + 3 * batch * c * c)


@pytest.mark.parametrize("half", ["feed_forward", "fusion"])
def test_a_second_derivative_is_refused(half):
    operator, arguments = halves()[half]
    y = operator(*arguments)
    y = y if half == "feed_forward" else y[0]
    (dx,) = torch.autograd.grad(y.square().sum(), arguments[0], create_graph=True)
    with pytest.raises(BackendError, match="have no second derivative; set the environment variable KBNET_FUSED=off"):
        dx.sum().backward()


@pytest.mark.parametrize("half", ["feed_forward", "fusion"])
@pytest.mark.parametrize(
    ("wrong", "message"), [(torch.zeros(99), "99 values"), (torch.zeros(4).double(), r"float32 .*got torch\.float64")]
)
def test_parameters_that_do_not_fit_are_refused(half, wrong, message):
    operator, (x, layers, *rest) = halves()[half]
    with pytest.raises(InvalidInputError, match=message):
        operator(x, [*layers[:-1], wrong], *rest)


@pytest.mark.parametrize("half", ["feed_forward", "fusion"])
@pytest.mark.parametrize("count", [0, 3])
def test_too_few_parameters_are_refused(half, count):
    operator, (x, layers, *rest) = halves()[half]
    with pytest.raises(InvalidInputError, match=f"expected {len(layers)} parameters, got {count}"):
        operator(x, layers[:count], *rest)


def test_when_the_layers_run_instead():
    block, x, _ = make(*CASES["5x7"])

    def plan(block, x, context=None):
        return fused.plan(block, x, context or FullFrame())

    assert (plan(block, x).fusion, plan(block, x).feed_forward) == (None, None)
    with torch.no_grad():
        assert plan(block, x).fusion == plan(block, x).feed_forward == "gradients are disabled"
    with torch.autocast("cpu", torch.bfloat16):
        assert "float32" in plan(block, x).feed_forward
    assert None not in (plan(block, x.double()).fusion, plan(block, x.double()).feed_forward)
    assert "channel branch" in plan(block, x, Gather()).fusion
    assert "pixels" in plan(block, torch.empty(2, 8, 999, 999)).fusion
    assert "fewer images than threads" in plan(block, x[:0]).fusion
    assert None not in (plan(block.bfloat16(), x.bfloat16()).fusion, plan(block, x.bfloat16()).feed_forward)


def test_hooks_see_every_layer():
    block, x, dy = make(*CASES["5x7"])
    seen = []
    block.gate.register_full_backward_hook(lambda *_: seen.append(True))
    plan = fused.plan(block, x, FullFrame())
    assert (plan.fusion, plan.feed_forward) == (None, "gate has a hook")  # the other half has none
    run(block, x, dy)
    assert seen


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("kbnet-s", torch.bfloat16), ("kbnet-l", torch.float32), ("kbnet-l", torch.bfloat16)],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_what_trains_by_its_layers(family, dtype, monkeypatch):
    torch.manual_seed(0)
    block = (
        KBBlockS(8, coefficient_width=4, bases=3)
        if family == "kbnet-s"
        else KBBlockL(8, 2, coefficient_width=4, bases=3)
    )
    block, x = block.to(dtype), torch.randn(2, 8, 4, 5).to(dtype).requires_grad_()
    for operator in ("trained_fusion", "trained_feed_forward"):
        monkeypatch.setattr(fused, operator, lambda *_, **__: pytest.fail("a call of the kernels"))
    gradients = torch.autograd.grad(block(x, FullFrame()).square().sum(), [x, *block.parameters()])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_wide_blocks_are_trained_layer_by_layer():
    for channels in (128, 136):
        block = KBBlockS(channels, coefficient_width=8, bases=2, lightweight=True)
        plan = fused.plan(block, torch.zeros(2, channels, 1, 1), FullFrame())
        for reason in (plan.fusion, plan.feed_forward):
            assert reason is None if channels == 128 else "more than 128 channels" in reason
