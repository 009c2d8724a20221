"""Blocks as one call of the compiled kernels against the same blocks layer by layer.

A result may err from float64 at most twice what the layers err at the same precision, in the mean over pixels; and
nowhere by more than that and four roundings of the largest value, as single pixels differ by chance. Memory starts as
NaN (see conftest.py): a pixel that is not written shows.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.models import create_model
from kbnet.nn import FullFrame, Gather, KBBlockL, KBBlockS, Local, Shared, fused
from kbnet.ops import native, register_flop_formulas
from kbnet.ops.block import fused_block, normalized_cell_sums

pytestmark = pytest.mark.skipif(
    native.refuses_here() is not None, reason="installed without the native kernel (no compiler)"
)
INSTRUCTION_SETS = () if native.refuses_here() else native.instruction_sets()

# Settings of a block of KBNet-S, and (B, H, W): every remainder of the register tiles, one tile and several.
SMALL = {
    "one pixel": ({"channels": 8, "bases": 3}, (1, 1, 1)),
    "a batch of pixels": ({"channels": 8, "bases": 8}, (3, 1, 1)),
    "one row": ({"channels": 8, "bases": 4, "lightweight": True}, (1, 1, 83)),
    "one column": ({"channels": 4, "bases": 5}, (2, 71, 1)),
    "5x7": ({"channels": 16, "bases": 8, "lightweight": True}, (2, 5, 7)),
    "several tiles": ({"channels": 16, "bases": 8, "lightweight": True}, (2, 37, 133)),
    "several tiles, 5x5 static": ({"channels": 8, "bases": 6}, (1, 41, 117)),
    "one channel a group": ({"channels": 6, "bases": 4, "group_channels": 1, "lightweight": True}, (1, 9, 20)),
    "three channels a group": ({"channels": 12, "bases": 4, "group_channels": 3}, (1, 9, 20)),
    "two channels a group": ({"channels": 20, "bases": 9, "group_channels": 2}, (1, 11, 34)),
    "one group": ({"channels": 8, "bases": 3, "group_channels": 8}, (1, 10, 18)),
    "one basis": ({"channels": 8, "bases": 1}, (1, 6, 31)),
    "32 bases": ({"channels": 32, "bases": 32}, (1, 12, 40)),
    "1x1 bases": ({"channels": 8, "bases": 4, "kernel_size": 1, "lightweight": True}, (1, 7, 19)),
    "5x5 bases": ({"channels": 8, "bases": 4, "kernel_size": 5, "lightweight": True}, (1, 9, 70)),
    "7x7 bases on a smaller image": ({"channels": 8, "bases": 4, "kernel_size": 7}, (1, 3, 2)),
    "many channels": ({"channels": 224, "bases": 4, "lightweight": True}, (1, 3, 5)),
    "narrow feed-forward": ({"channels": 12, "bases": 4, "ffn_scale": 1.5}, (1, 6, 17)),
}


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv("KBNET_INSTRUCTION_SET", request.param)
    return request.param


def lively(block, seed=0):
    """Weights that matter: scales start near zero, and norms as the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.numel() <= parameter.shape[min(1, parameter.ndim - 1)]:
                parameter.add_(0.5 * noise)
            else:
                parameter.mul_(1 + noise)
    return block.eval()


def block_s(channels=8, **settings):
    torch.manual_seed(0)
    return lively(KBBlockS(channels, coefficient_width=coefficient_width(channels, 32), **settings))


def block_l(channels=12, heads=2, **settings):
    torch.manual_seed(0)
    return lively(KBBlockL(channels, heads, coefficient_width=coefficient_width(channels, 24), **settings))


def run(block, x, context, monkeypatch, *, whole):
    monkeypatch.setenv("KBNET_FUSED", "on" if whole else "off")
    with torch.inference_mode():
        assert (fused.plan(block, x, context).inference is None) is whole
        return block(x, context)


def assert_as_good_as_layers(block, x, monkeypatch, make_context=FullFrame):
    def context():
        made = make_context()
        made.begin(x.shape[2])
        return made

    ours = run(block, x, context(), monkeypatch, whole=True)
    layers = run(block, x, context(), monkeypatch, whole=False)
    assert (ours.dtype, ours.shape, ours.stride()) == (x.dtype, x.shape, torch.empty_like(x).stride())
    dtype = next(block.parameters()).dtype
    exact = run(block.double(), x.double(), context(), monkeypatch, whole=False)
    block.to(dtype)
    assert_close(ours, layers, exact)
    return ours


def assert_close(ours, layers, exact):
    error, baseline = ((t.double() - exact).abs() for t in (ours, layers))
    rounding = torch.finfo(ours.dtype).eps
    for name, size in (("rms", lambda t: t.square().mean().sqrt()), ("largest", torch.max)):
        allowed = 2 * size(baseline) + (4 if name == "largest" else 0.25) * rounding * size(exact.abs())
        assert size(error) <= allowed, f"{name}: {size(error):.3g} > {allowed:.3g}"


def image(batch, channels, height, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return (2 * torch.randn(batch, channels, height, width, generator=generator) + 1).to(dtype)


@pytest.mark.parametrize(("settings", "size"), SMALL.values(), ids=SMALL.keys())
def test_blocks_of_kbnet_s(settings, size, instruction_set, monkeypatch):
    x = image(size[0], settings["channels"], *size[1:])
    assert_as_good_as_layers(block_s(**settings), x, monkeypatch)


@pytest.mark.parametrize(("settings", "size"), SMALL.values(), ids=SMALL.keys())
def test_blocks_of_kbnet_s_in_bfloat16(settings, size, instruction_set, monkeypatch):
    x = image(size[0], settings["channels"], *size[1:], torch.bfloat16)
    assert_as_good_as_layers(block_s(**settings).to(torch.bfloat16), x, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("channels", "size"), [(12, (2, 9, 21)), (16, (1, 38, 90)), (4, (1, 1, 1))])
def test_fusion_of_kbnet_l(channels, size, dtype, instruction_set, monkeypatch):
    block = block_l(channels, bases=5).to(dtype)
    x = image(size[0], channels, *size[1:], dtype)
    with torch.inference_mode():
        assert fused.plan(block, x, FullFrame()).inference is None
        ours = fused.whole(block, x, FullFrame())
        layers = x + block.fusion(block.fusion_norm(x), FullFrame())
        double = block.double()
        exact = x.double() + double.fusion(double.fusion_norm(x.double()), FullFrame())
    assert_close(ours, layers, exact)


def test_float32_weights_and_bfloat16_images(monkeypatch):
    """Under autocast weights stay float32."""
    block, x = block_s(16, bases=8), image(1, 16, 20, 30)
    exact = run(block, x, FullFrame(), monkeypatch, whole=False)
    monkeypatch.setenv("KBNET_FUSED", "on")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        half = block(x.bfloat16(), FullFrame())
        mixed = block(x, FullFrame())
    assert (half.dtype, mixed.dtype) == (torch.bfloat16, torch.float32)
    for y in (half, mixed):
        assert (y.float() - exact).abs().max() < 0.03 * exact.abs().max()


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last)


def sliced(t):
    """The same values as a window of a larger image, every second column of it, NaN around them."""
    larger = torch.full((t.shape[0], t.shape[1] + 1, t.shape[2] + 2, 2 * t.shape[3] + 3), torch.nan, dtype=t.dtype)
    return larger[:, 1:, 1:-1, 2:-1:2].copy_(t)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("layout", [channels_last, sliced])
def test_memory_formats(layout, dtype, instruction_set, monkeypatch):
    block, x = block_s(12, bases=8, lightweight=True).to(dtype), image(2, 12, 19, 67, dtype)
    straight = run(block, x, FullFrame(), monkeypatch, whole=True)
    assert torch.equal(assert_as_good_as_layers(block, layout(x), monkeypatch), straight)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(threads, monkeypatch):
    block, x, before = block_s(8, bases=5), image(1, 8, 45, 70), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (run(block, x, FullFrame(), monkeypatch, whole=True) for _ in range(2))
        assert_as_good_as_layers(block, x, monkeypatch)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(first, second)


@pytest.mark.parametrize("window", [3, 8, 20, 64])
def test_local_context(window, monkeypatch):
    """Cells of one pixel and of several, whole and cut ones."""
    block, x = block_s(8, bases=5, lightweight=True), image(2, 8, 45, 83)
    assert_as_good_as_layers(block, x, monkeypatch, lambda: Local(window))


def test_gathered_and_shared_context(monkeypatch):
    block, x = block_s(8, bases=5, lightweight=True), image(3, 8, 32, 32)
    means = []

    def gather():
        context = Gather(halo=5)
        means.append(context)
        return context

    assert_as_good_as_layers(block, x, monkeypatch, gather)
    ours, layers, exact = (context.means for context in means)
    assert [m.shape for m in ours] == [m.shape for m in layers] == [(1, 8, 1, 1)]
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=0, atol=1e-6)
    assert_as_good_as_layers(block, x[:1], monkeypatch, lambda: Shared(exact))


def test_sums_over_cells(instruction_set):
    x, weight, bias = image(2, 6, 37, 150), image(1, 6, 1, 1).flatten(), image(1, 6, 1, 2)[..., 1].flatten()
    u = torch.nn.functional.layer_norm(x.double().permute(0, 2, 3, 1), (6,), weight.double(), bias.double(), 1e-6)
    for rows, cols in ((1, 1), (5, 8), (16, 150), (40, 200)):
        sums = normalized_cell_sums(x, weight, bias, rows, cols, 1e-6)
        cells = [band.split(cols, 2) for band in u.split(rows, 1)]
        expected = torch.stack([torch.stack([c.sum((1, 2)) for c in row], -1) for row in cells], -2)
        torch.testing.assert_close(sums.double(), expected, rtol=0, atol=float(2e-6 * u.abs().sum((1, 2)).max()))


def test_torchs_default_dtype_is_nothing_to_the_sums():
    x, weight, bias = image(1, 6, 9, 20), torch.rand(6), torch.rand(6)
    expected = normalized_cell_sums(x, weight, bias, 4, 8, 1e-6)
    torch.set_default_dtype(torch.float64)
    try:
        sums = normalized_cell_sums(x, weight, bias, 4, 8, 1e-6)
    finally:
        torch.set_default_dtype(torch.float32)
    assert sums.dtype == torch.float32
    assert torch.equal(sums, expected)


def test_an_output_is_never_written_to_a_converted_copy():
    x, parameters = image(1, 8, 4, 6), [torch.ones(8), torch.zeros(8)]
    settings = {"cell_rows": 4, "cell_cols": 3, "eps": 1e-6, "threads": 1}
    for sums in (torch.empty(1, 8, 1, 2, dtype=torch.float64), torch.empty(1, 8, 1, 4)[..., ::2]):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            native.extension().cell_sums(x, parameters, sums, **settings)


def test_nan_spreads_no_further_than_the_layers_spread_it(monkeypatch):
    block, x = block_s(8, bases=4, lightweight=True), image(1, 8, 20, 90)
    x[0, 3, 9, 70] = torch.nan
    context = Shared([image(1, 8, 1, 1)] * 2)
    ours = run(block, x, context, monkeypatch, whole=True)
    context.begin(20)
    assert torch.equal(ours.isnan(), run(block, x, context, monkeypatch, whole=False).isnan())


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001], ids=["all ones", "all ones, negative", "the smallest"])
def test_any_nan_stays_nan_where_products_are_of_bfloat16(bits, instruction_set, monkeypatch):
    """Rounding by adding to the bits would carry some of them into the sign, or into infinity."""
    block, x = block_s(8, bases=4, lightweight=True), image(1, 8, 20, 90)
    with torch.no_grad():  # a value times a NaN is that NaN
        block.fusion_norm.weight[7] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    context = Shared([image(1, 8, 1, 1)] * 2)
    monkeypatch.setenv("KBNET_FUSED", "on")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert fused.plan(block, x, context).inference is None
        y = block(x, context)
    assert y.isnan().all()  # every output channel reads the last one, which is NaN before the first product


@pytest.mark.parametrize("settings", [{"lightweight": True, "ffn_scale": 1.5}, {"kernel_size": 5}], ids=str)
def test_a_block_counts_the_same_operations_either_way(settings, monkeypatch):
    """torch's counter hooks all modules, so that it sees layers; the operator of a block is counted when called."""
    monkeypatch.setenv("KBNET_FUSED", "on")
    register_flop_formulas()
    block, x, calls = block_s(8, bases=5, **settings), image(2, 8, 6, 9), []
    with FlopCounterMode(display=False) as layers, torch.inference_mode():
        block(x, FullFrame())
    right = fused.fused_block
    monkeypatch.setattr(
        fused, "fused_block", lambda *args, **kwargs: calls.append((args, kwargs)) or right(*args, **kwargs)
    )
    with torch.inference_mode():
        block(x, FullFrame())
        with FlopCounterMode(display=False) as counter:
            right(*calls[0][0], **calls[0][1])
    assert set(counter.get_flop_counts()["Global"]) == {torch.ops.kbnet.fused_block}
    mixed = 2 * 2 * 8 * 8  # the channel branch is computed before, once an image
    assert counter.get_total_flops() + mixed == layers.get_total_flops() > 0


def test_it_refuses_what_it_cannot_do_and_says_why(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    block, x = block_s(), image(1, 8, 4, 4)

    def why(block, x):
        return fused.plan(block, x, FullFrame()).inference

    assert "inference_mode" in why(block, x)  # gradients are wanted
    with torch.inference_mode():
        assert why(block, x) is None
        assert "float64" in why(block, x.double())
        assert "float64" in why(block.double(), x)
        block.float()
        assert "float32" in why(block, x.bfloat16())
        assert "7 channels, not 8" in why(block, x[:, :7])
        assert "not a plain tensor" in why(block, x[0])
        assert "eval()" in why(block.train(), x)
        monkeypatch.setenv("KBNET_FUSED", "off")
        assert why(block.eval(), x) == "KBNET_FUSED is off"


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 512), (torch.bfloat16, 256)])
def test_wide_blocks_run_layer_by_layer(dtype, limit, monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    with torch.inference_mode():
        for channels in (limit, limit + 4):
            block = KBBlockS(channels, coefficient_width=2, bases=1, lightweight=True).to(dtype).eval()
            reason = fused.plan(block, torch.ones(1, channels, 1, 1, dtype=dtype), FullFrame()).inference
            assert reason is None if channels == limit else f"more than {limit} channels" in reason


def test_hooks_see_the_layers(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    block, x, seen = block_s(), image(1, 8, 4, 4), []
    handle = block.coefficients.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.inference_mode():
        block(x, FullFrame())
        handle.remove()
        block(x, FullFrame())
    assert seen == [(1, 32, 4, 4)]


@pytest.mark.parametrize("family", [block_s, block_l])
def test_gradients_go_through_the_layers(family, monkeypatch):
    """With gradients a block is not the operator of inference; in bfloat16 no half is one of training."""
    block = family(channels=8, bases=4).bfloat16()
    x = image(1, 8, 5, 6, torch.bfloat16).requires_grad_()

    def gradients():
        return torch.autograd.grad(block(x, FullFrame()).square().sum(), [x, *block.parameters()])

    monkeypatch.setenv("KBNET_FUSED", "off")
    expected = gradients()
    monkeypatch.setenv("KBNET_FUSED", "on")
    for operator in ("fused_block", "trained_fusion", "trained_feed_forward"):
        monkeypatch.setattr(fused, operator, lambda *_, **__: pytest.fail("a call of the kernels"))
    for found, wanted in zip(gradients(), expected, strict=True):
        assert found.any()
        assert torch.equal(found, wanted)


@pytest.mark.slow
def test_a_compiled_and_an_exported_network_keep_the_operator_whole(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    network, x = create_model("kbnet-nano", width=8).eval(), torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = network(x)
    with torch.no_grad():
        exported = torch.export.export(network, (x,))
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(exported.module()(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-5)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert sum("kernel_basis_attention" in target for target in targets) == 15
    assert not any("fused_block" in target for target in targets)


def test_parameters_that_do_not_fit_are_refused():
    x, means = image(1, 8, 4, 4), torch.ones(1, 8, 1, 1)
    with pytest.raises(InvalidInputError, match="don't fit together: too few parameters"):
        fused_block(x, means, [torch.ones(8)] * 2, [], 1, 4, 4, 3, 8, 4, 5, False, False, 1e-6)
    with pytest.raises(InvalidInputError, match=r"parameter 0 has 7 values, expected 8"):
        fused_block(x, means, [torch.ones(7)] * 23, [], 1, 4, 4, 3, 8, 4, 5, False, False, 1e-6)
    with pytest.raises(InvalidInputError, match="the coefficient head doesn't match"):
        fused_block(x, means, [torch.ones(8)] * 23, [], 1, 4, 4, 3, 3, 4, 5, False, False, 1e-6)
    with pytest.raises(InvalidInputError, match="expected 0 or 7 feed-forward parameters, got 3"):
        fused_block(x, means, [torch.ones(8)] * 23, [torch.ones(8)] * 3, 1, 4, 4, 3, 8, 4, 5, False, False, 1e-6)


def test_opcheck(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    block, x = block_s(bases=4, lightweight=True), image(1, 8, 5, 6)
    calls = []
    monkeypatch.setattr(fused, "fused_block", lambda *args, **kwargs: calls.append((args, kwargs)) or args[0])
    with torch.no_grad():
        block(x, FullFrame())
    (args, kwargs), norm = calls[0], block.fusion_norm
    args = [x, args[1].detach(), *([None if p is None else p.detach() for p in group] for group in args[2:4])]
    torch.library.opcheck(torch.ops.kbnet.fused_block.default, tuple(args), kwargs, test_utils="test_schema")
    torch.library.opcheck(torch.ops.kbnet.fused_block.default, tuple(args), kwargs, test_utils="test_faketensor")
    sums = (x, norm.weight.detach(), norm.bias.detach(), 2, 3, 1e-6)
    for test in ("test_schema", "test_faketensor"):
        torch.library.opcheck(torch.ops.kbnet.normalized_cell_sums.default, sums, test_utils=test)
