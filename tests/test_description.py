"""What is described of a block is what its constructor builds, and what the kernels read."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from kbnet import description
from kbnet.description import FEED_FORWARD, FUSION, BlockL, BlockS, describe
from kbnet.models import PRESETS, create_model
from kbnet.models import build as build_network
from kbnet.models.description import describe_network
from kbnet.nn import FullFrame, KBBlockL, KBBlockS
from kbnet.nn.conformity import departure

ROOT = Path(__file__).parents[1]
BLOCKS = {
    "S": (KBBlockS, BlockS(16, 16)),
    "S lightweight": (KBBlockS, BlockS(12, 6, bases=5, group_channels=3, ffn_scale=1.5, lightweight=True)),
    "S of wide kernels": (KBBlockS, BlockS(8, 4, bases=1, group_channels=8, kernel_size=7, ffn_scale=3)),
    "L": (KBBlockL, BlockL(12, 2, 12)),
    "L with biases": (KBBlockL, BlockL(16, 4, 8, bases=3, group_channels=1, kernel_size=5, expansion=2.0, bias=True)),
}


def build(kind, settings):
    given = vars(settings).copy()
    positional = [given.pop(name) for name in ("channels", "heads") if name in given]
    return kind(*positional, **given)


@pytest.mark.parametrize(("kind", "settings"), BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_is_built_as_it_is_described(kind, settings):
    block, described = build(kind, settings), describe(settings)
    assert block.settings == settings
    assert [layer.path for layer in described] == [name for name, _ in block.named_modules()]
    assert described.names() == sorted(dict(block.named_parameters()), key=described.names().index)
    shapes = {f"{layer.path}.{name}".strip("."): s for layer in described for name, s in layer.parameters.items() if s}
    assert shapes == {name: tuple(p.shape) for name, p in block.named_parameters()}
    for layer in described:
        module = block.get_submodule(layer.path)
        assert type(module).__name__ == layer.kind
        assert {name: getattr(module, name) for name in layer.settings} == layer.settings
    assert departure(block, described.layers) is None


@pytest.mark.parametrize(("kind", "settings"), BLOCKS.values(), ids=BLOCKS.keys())
def test_every_parameter_of_a_half_has_one_role(kind, settings):
    block, described = build(kind, settings), describe(settings)
    roles = [path for path in (*described.fusion.values(), *described.feed_forward.values()) if path is not None]
    outside = {name for name in described.names() if name.startswith("attention")}
    assert sorted(roles) == sorted(dict(block.named_parameters()).keys() - outside)
    assert len(set(roles)) == len(roles)
    assert tuple(described.fusion) == FUSION
    assert tuple(described.feed_forward) in ((), FEED_FORWARD)
    assert described.layer_of("bases").kind == "KernelBasisAttention"


@pytest.mark.parametrize(("kind", "settings"), BLOCKS.values(), ids=BLOCKS.keys())
def test_multiply_adds_are_those_of_the_layers(kind, settings):
    """Of a pixel; the channel branch's are of an image."""
    block, described, counted = build(kind, settings), describe(settings), {}
    x = torch.rand(1, settings.channels, 4, 6)
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            inputs = module.weight[0].numel()
            module.register_forward_hook(lambda m, _, y, n=name, i=inputs: counted.update({n: y.numel() * i}))
    block(x, FullFrame())
    for layer in described:
        if layer.kind == "Conv2d":
            pixels = 1 if layer.path.endswith("channel_branch.mix") else 24
            assert counted[layer.path] == pixels * layer.multiply_adds()
    n, c, g, k = settings.bases, block.settings.channels, settings.group_channels, settings.kernel_size
    c = int(c * settings.expansion) if isinstance(settings, BlockL) else c
    assert described.layer_of("bases").multiply_adds() == n * c * g * k * k + c * g * k * k + n * c


def test_the_kernels_name_the_parameters_in_the_same_order():
    header = (ROOT / "csrc" / "problem.h").read_text(encoding="utf-8")
    listed = re.search(r"enum FusionParameter \{(.*?)kFusionParameters", header, re.DOTALL)
    names = re.findall(r"k([A-Z]\w+),", listed[1])
    assert tuple(re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in names) == FUSION


def test_nothing_of_it_needs_torch():
    tree = ast.parse(Path(description.__file__).read_text(encoding="utf-8"))
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    assert {module.partition(".")[0] for module in modules} <= {*sys.stdlib_module_names, "kbnet"}
    assert [module for module in modules if module.startswith("kbnet")] == ["kbnet.errors"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_network_is_built_as_it_is_described(preset):
    with torch.device("meta"):
        network = build_network(PRESETS[preset])
    layers = describe_network(PRESETS[preset])
    assert [layer.path for layer in layers] == [name for name, _ in network.named_modules()]
    assert departure(network, layers) is None
    shapes = {f"{layer.path}.{name}": s for layer in layers for name, s in layer.parameters.items() if s}
    assert {name.strip("."): s for name, s in shapes.items()} == {
        k: tuple(t.shape) for k, t in network.state_dict().items()
    }


@pytest.mark.parametrize("family", ["kbnet-nano", "kbnet-l-derain"])
def test_networks_of_few_blocks_are_described_too(family):
    settings = (
        {"width": 8, "encoder_blocks": (0, 2), "decoder_blocks": (1, 0), "middle_blocks": 0, "lightweight": False}
        if family == "kbnet-nano"
        else {"width": 8, "blocks": (1, 0, 2, 0), "refinement_blocks": 0, "heads": (1, 2, 1, 2), "bias": True}
    )
    network = create_model(family, **settings)
    assert departure(network, describe_network(network.config)) is None
    network.last = torch.nn.Identity()
    assert departure(network, describe_network(network.config)) == "last is of type Identity, not Conv2d"
