"""Whatever is done to a block's modules, its value and its gradients stay those of the modules."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, parametrize, prune

from kbnet.description import describe
from kbnet.models import create_model
from kbnet.nn import FullFrame, KBBlockS, compiled, fused
from kbnet.nn.conformity import departure
from kbnet.ops import native

pytestmark = pytest.mark.skipif(
    native.refuses_here() is not None, reason="installed without the native kernel (no compiler)"
)


class LowRank(nn.Module):
    """An adapter around a convolution, as fine-tuning libraries have them; the wrapped layer's weight is in reach."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Conv2d(base.in_channels, 2, 1, bias=False)
        self.up = nn.Conv2d(2, base.out_channels, 1, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Doubled(nn.Conv2d):
    """A subclass with the attributes of its base."""

    def forward(self, x):
        return 2 * super().forward(x)


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return weight / 2


class Tagged(nn.Parameter):
    """A parameter of a type of its own."""


def wrapped(block):
    block.fusion_out = LowRank(block.fusion_out)


def wrapped_in_the_other_half(block):
    block.ffn_in = LowRank(block.ffn_in)


def wrapped_in_a_container(block):
    block.static_branch[0] = LowRank(block.static_branch[0])


def another_gate(block):
    block.gate = nn.GLU(dim=1)


def another_norm(block):
    block.fusion_norm = nn.InstanceNorm2d(8, affine=True)


def another_padding(block):
    block.adaptive_in[1] = nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect")


def padding_mode_set_later(block):
    block.static_branch[1].padding_mode = "circular"


def dilated(block):
    block.coefficients.grouped.dilation, block.coefficients.grouped.padding = (2, 2), (2, 2)


def other_groups(block):
    block.adaptive_in[1] = nn.Conv2d(8, 8, 3, padding=1, groups=4)


def other_epsilon(block):
    block.ffn_norm.eps = 0.1


def nothing_in_place_of_a_layer(block):
    block.static_branch = nn.Identity()


def one_layer_more(block):
    block.adaptive_in.append(nn.Tanh())


def a_subclass(block):
    block.ffn_out.__class__ = Doubled


def a_patched_forward(block):
    right = block.gate.forward
    block.gate.forward = lambda x: right(x) + 1


def a_patched_part_of_forward(block):
    layer = block.static_branch[0]
    layer._conv_forward = lambda x, weight, bias: nn.functional.conv2d(x, weight, bias) ** 2


def a_patched_class(block, monkeypatch):
    right = type(block.gate).forward
    monkeypatch.setattr(type(block.gate), "forward", lambda self, x: right(self, x) * 3)


def a_forward_hook(block):
    block.kba.register_forward_hook(lambda module, inputs, output: output * 2)


def a_forward_hook_on_a_container(block):
    block.coefficients.register_forward_hook(lambda module, inputs, output: output.tanh())


def a_forward_pre_hook(block):
    block.ffn_in.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def a_backward_hook(block):
    block.ffn_out.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 5,))


def a_backward_pre_hook(block):
    block.adaptive_in.register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 5,))


def a_global_forward_hook(block, monkeypatch):
    monkeypatch.setattr(
        torch_module, "_global_forward_hooks", {0: lambda m, i, y: y * 2 if type(m) is nn.Conv2d else y}
    )


def a_global_backward_hook(block, monkeypatch):
    hook = lambda m, i, o: tuple(g * 2 if g is not None else g for g in i) if type(m) is nn.Conv2d else i  # noqa: E731
    monkeypatch.setattr(torch_module, "_global_backward_hooks", {0: hook})
    monkeypatch.setattr(torch_module, "_global_is_full_backward_hook", True)


def a_parametrization(block):
    parametrize.register_parametrization(block.fusion_out, "weight", Halved())


def a_weight_norm(block):
    parametrizations.weight_norm(block.static_branch[0])


def pruned(block):
    prune.l1_unstructured(block.ffn_in, "weight", 0.5)


def a_wider_weight(block):
    """A feed-forward part pruned the other way: consistent, but not what was built."""
    block.ffn_in.weight = nn.Parameter(torch.randn(24, 8, 1, 1))
    block.ffn_in.bias = nn.Parameter(torch.randn(24))
    block.ffn_out.weight = nn.Parameter(torch.randn(8, 12, 1, 1))


def kernels_of_another_size(block):
    block.static_branch[1].weight = nn.Parameter(torch.randn(8, 1, 5, 5) / 5)
    block.static_branch[1].padding = (2, 2)


def a_bias_taken_away(block):
    block.ffn_out.bias = None


def a_weight_that_is_no_parameter(block):
    weight = block.fusion_out.weight
    del block.fusion_out.weight
    block.fusion_out.weight = 2 * weight.detach()


def a_parameter_of_another_type(block):
    block.kba_scale = Tagged(block.kba_scale.detach().clone())


def a_patched_average(block):
    right = block.channel_branch.forward
    block.channel_branch.forward = lambda x, context: right(x, context) + 1


MUTATIONS = [
    wrapped, wrapped_in_the_other_half, wrapped_in_a_container, another_gate, another_norm, another_padding,
    padding_mode_set_later, dilated, other_groups, other_epsilon, nothing_in_place_of_a_layer, one_layer_more,
    a_subclass, a_patched_forward, a_patched_part_of_forward, a_patched_class, a_forward_hook,
    a_forward_hook_on_a_container,
    a_forward_pre_hook, a_backward_hook, a_backward_pre_hook, a_global_forward_hook, a_global_backward_hook,
    a_parametrization, a_weight_norm, pruned, a_wider_weight, kernels_of_another_size, a_bias_taken_away,
    a_weight_that_is_no_parameter, a_parameter_of_another_type, a_patched_average,
]  # fmt: skip


def block_s(lightweight=True):
    torch.manual_seed(0)
    block = KBBlockS(8, coefficient_width=8, bases=4, lightweight=lightweight)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("scale"):
                parameter.copy_(torch.rand_like(parameter) + 0.5)
    return block


def results(block, x, monkeypatch, mode):
    """Value and every gradient."""
    monkeypatch.setenv("KBNET_FUSED", mode)
    inputs = {"x": x.clone().requires_grad_(), **dict(block.named_parameters())}
    found = {"y": block(inputs["x"], FullFrame())}
    gradients = torch.autograd.grad(found["y"].square().sum(), list(inputs.values()), allow_unused=True)
    return found | {f"gradient of {name}": g for name, g in zip(inputs, gradients, strict=True) if g is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = float(value.detach().abs().max())
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=2e-5 * size, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_block_computes_what_its_modules_do(mutate, monkeypatch):
    block, x = block_s(), torch.randn(2, 8, 7, 9)
    plain = results(copy.deepcopy(block), x, monkeypatch, "off")
    assert_same(results(block, x, monkeypatch, "on"), plain)
    assert (fused.plan(block, x, FullFrame()).fusion, fused.plan(block, x, FullFrame()).feed_forward) == (None, None)
    mutate(*(block, monkeypatch)[: mutate.__code__.co_argcount])
    expected = results(block, x, monkeypatch, "off")
    assert any(key not in plain or not torch.equal(expected[key], plain[key]) for key in expected) or (
        mutate is a_parameter_of_another_type  # it changes nothing: what it would do is not known
    )
    assert_same(results(block, x, monkeypatch, "on"), expected)
    monkeypatch.setenv("KBNET_FUSED", "on")
    assert set(vars(fused.plan(block, x, FullFrame())).values()) != {None}


def network_s():
    torch.manual_seed(0)
    settings = {"width": 8, "encoder_blocks": (0,), "decoder_blocks": (1,), "middle_blocks": 0, "bases": 4}
    network = create_model("kbnet-nano", **settings).eval()
    network.decoder[0][0] = block_s().eval()
    return network


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_network_computes_what_its_modules_do(mutate, monkeypatch):
    network, x = network_s(), torch.randn(2, 3, 14, 18)
    monkeypatch.setenv("KBNET_FUSED", "on")
    with torch.inference_mode():
        assert compiled.refuses(network, x, FullFrame()) is None
    mutate(*(network.decoder[0][0], monkeypatch)[: mutate.__code__.co_argcount])
    network.eval()
    with torch.inference_mode():
        assert compiled.refuses(network, x, FullFrame()) is not None
        found = network(x)
        monkeypatch.setenv("KBNET_FUSED", "off")
        assert torch.equal(found, network(x))


def test_one_layer_of_another_dtype_is_refused_as_the_modules_refuse_it(monkeypatch):
    block, x = block_s(), torch.randn(2, 8, 7, 9)
    block.ffn_in.double()
    for mode in ("on", "off"):
        monkeypatch.setenv("KBNET_FUSED", mode)
        with pytest.raises(RuntimeError, match=r"type|dtype"):
            block(x, FullFrame())


def test_parameters_put_in_from_outside_are_used(monkeypatch):
    """As ensembles and meta-learning do."""
    block, x = block_s(), torch.randn(2, 8, 7, 9)
    other = {name: p.detach() * 1.5 for name, p in block.named_parameters()}
    values = {}
    for mode in ("on", "off"):
        monkeypatch.setenv("KBNET_FUSED", mode)
        values[mode] = torch.func.functional_call(block, other, (x, FullFrame()))
    torch.testing.assert_close(values["on"], values["off"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(values["on"], block(x, FullFrame()))


def test_only_the_half_that_was_changed_runs_by_its_layers():
    block, x = block_s(), torch.randn(2, 8, 7, 9)
    assert fused.plan(block, x, FullFrame()) == fused.Plan(None, None)
    wrapped_in_the_other_half(block)
    plan = fused.plan(block, x, FullFrame())
    assert plan.fusion is None
    assert plan.feed_forward == "ffn_in is of type LowRank, not Conv2d"


def test_attributes_that_change_nothing_are_let_be(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    block = block_s()
    block.note, block.kba.index, block.ffn_in.requires_grad = "mine", 3, False
    block.ffn_norm.weight.requires_grad_(False)
    for same in (block, copy.deepcopy(block)):
        assert fused.plan(same, torch.zeros(2, 8, 3, 3), FullFrame()) == fused.Plan(None, None)


def test_a_network_of_the_other_family_is_held_to_its_description_too():
    torch.manual_seed(0)
    settings = {"width": 8, "blocks": (1, 0, 0, 1), "heads": (1, 1, 1, 2), "refinement_blocks": 0, "bases": 3}
    network, x = create_model("kbnet-l-derain", **settings).eval(), torch.rand(1, 3, 16, 24)
    for half, place in (("attention", "attention.out"), ("fusion", "fusion.out")):
        changed = copy.deepcopy(network)
        module = getattr(changed.middle[0], half)
        module.out = LowRank(module.out)
        with torch.inference_mode():
            assert compiled.refuses(network, x, FullFrame()) is None
            reason = compiled.refuses(changed, x, FullFrame())
            assert reason == f"middle.0.{place} is of type LowRank, not Conv2d"
            assert not torch.equal(changed(x), network(x))


def test_reasons_name_the_place():
    described = describe(block_s().settings)
    for mutate, words in [
        (padding_mode_set_later, "static_branch.1 has padding_mode 'circular', not 'zeros'"),
        (a_bias_taken_away, "ffn_out has a missing parameter"),
        (one_layer_more, "adaptive_in holds 0, 1, 2, not 0, 1"),
        (a_patched_forward, "gate has an instance attribute forward"),
        (pruned, "ffn_in has a hook"),
        (kernels_of_another_size, "static_branch.1 has padding (2, 2), not (1, 1)"),
        (a_weight_that_is_no_parameter, "fusion_out has an instance attribute weight"),
        (a_parameter_of_another_type, "a parameter of the module is not a plain strided tensor"),
    ]:
        block = block_s()
        mutate(block)
        assert departure(block, described.layers) == words
