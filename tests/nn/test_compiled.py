"""When a network runs by the engine: only if it is just what its settings say, and with its weights as they are now."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import kbnet
from kbnet.nn import FullFrame, Gather, Local, Shared, compiled, conformity
from kbnet.ops import native

pytestmark = pytest.mark.skipif(native.refuses_here() is not None, reason="no compiled kernels")

NETWORKS = {
    "kbnet-nano": {"width": 8, "encoder_blocks": (1,), "decoder_blocks": (1,), "middle_blocks": 1, "bases": 4},
    "kbnet-l-derain": {"width": 8, "blocks": (1, 0, 1, 1), "heads": (1, 1, 2, 2), "refinement_blocks": 1, "bases": 4},
}
TOLERANCE = 2e-5


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    made = kbnet.create_model(request.param, **NETWORKS[request.param]).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("scale"):
                parameter.uniform_(0.3, 0.7)
    return made


@pytest.fixture
def calls(monkeypatch):
    """Counts the passes by the engine."""
    counted = []
    run = compiled.run
    monkeypatch.setattr(compiled, "run", lambda *arguments: counted.append(1) or run(*arguments))
    return counted


def image(height=24, width=40, batch=1):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def by_layers(network, x, context=None):
    """With gradients wanted, the layers run."""
    return network(x, context).detach()


@pytest.mark.parametrize("context", [FullFrame, lambda: Local(16), lambda: Gather(2)])
def test_a_network_in_inference_runs_by_the_engine_and_gives_the_same(network, calls, context):
    x = image(batch=2)
    with torch.inference_mode():
        result = network(x, context())
    assert len(calls) == 1
    torch.testing.assert_close(result, by_layers(network, x, context()), atol=TOLERANCE, rtol=0)


def test_averages_pass_from_a_gather_to_a_shared_context(network, calls):
    crops, tile = image(batch=3), image(16, 32)
    ours, theirs = Gather(4), Gather(4)
    with torch.inference_mode():
        network(crops, ours)
        result = network(tile, Shared(ours.means))
    by_layers(network, crops, theirs)
    assert [mean.shape for mean in ours.means] == [mean.shape for mean in theirs.means]
    torch.testing.assert_close(result, by_layers(network, tile, Shared(theirs.means)), atol=TOLERANCE, rtol=0)
    assert len(calls) == 2


def test_the_result_has_the_memory_format_of_the_image(network):
    x = image().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert network(x).is_contiguous(memory_format=torch.channels_last)
        assert network(image()).is_contiguous()


def test_changed_and_replaced_weights_are_seen(network, calls):
    x = image()
    with torch.inference_mode():
        network(x)
    changes = {
        "in place": lambda: network.first.weight.mul_(0.5),
        "unseen by autograd": lambda: [p.data.mul_(1.1) for p in network.parameters()],
        "in another memory format": lambda: network.to(memory_format=torch.channels_last),
        "unseen, in that format": lambda: [p.data.mul_(0.9) for p in network.parameters()],
        "replaced": lambda: setattr(network.last, "weight", nn.Parameter(network.last.weight * 0.5)),
        "loaded": lambda: network.load_state_dict({k: v * 0.9 for k, v in network.state_dict().items()}),
    }
    for change in changes.values():
        with torch.no_grad():
            change()
        with torch.inference_mode():
            result = network(x)
        torch.testing.assert_close(result, by_layers(network, x), atol=TOLERANCE, rtol=0)
    assert len(calls) == 1 + len(changes)


class Halved(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) / 2


MUTATIONS = {
    "a wrapped layer": lambda n: setattr(n, "last", Halved(n.last)),
    "a hook": lambda n: n.encoder[0][0].register_forward_hook(lambda module, given, out: out * 2),
    "a hook on the network's first layer": lambda n: n.first.register_forward_pre_hook(lambda module, given: None),
    "another padding": lambda n: setattr(n.first, "padding_mode", "reflect"),
    "a patched method": lambda n: setattr(n.last, "forward", lambda x: n.first.weight.new_zeros(1, 3, *x.shape[2:])),
    "a layer in float64": lambda n: n.middle[0].double(),
    "one more block": lambda n: n.middle.append(copy.deepcopy(n.middle[0])),
    "a subclass": lambda n: setattr(n, "__class__", type("Mine", (type(n),), {})),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_was_changed_runs_layer_by_layer(network, calls, mutation):
    MUTATIONS[mutation](network)
    x = image()
    if mutation == "a layer in float64":
        with torch.inference_mode(), pytest.raises(RuntimeError):
            network(x)
    else:
        with torch.inference_mode():
            result = network(x)
        torch.testing.assert_close(result, by_layers(network, x), atol=TOLERANCE, rtol=0)
    assert calls == []


def test_calls_that_want_the_layers_get_them(network, calls, monkeypatch):
    x = image()
    network(x)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x)
    assert counter.get_total_flops() > 0
    network.train()
    with torch.no_grad():
        network(x)
    network.eval()
    torch.export.export(network, (x,))
    monkeypatch.setenv("KBNET_FUSED", "off")
    with torch.inference_mode():
        network(x)
    monkeypatch.delenv("KBNET_FUSED")
    assert calls == []
    with torch.inference_mode():
        network(x)
    assert len(calls) == 1


@pytest.mark.parametrize("type_of_image", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_runs_by_the_engine_too(network, calls, how, type_of_image):
    x = image().to(type_of_image)
    exact = by_layers(network, x.float())
    network.to(torch.bfloat16 if how == "weights" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        layers = by_layers(network, x)
        with torch.inference_mode():
            result = network(x)
    assert len(calls) == 1
    assert (result.dtype, result.shape) == (layers.dtype, layers.shape)
    assert (result - exact).abs().max() <= max((layers - exact).abs().max(), 2e-3)


def test_autocast_to_another_type_runs_layer_by_layer(network, calls):
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        network(image())
    assert calls == []


@pytest.mark.slow
def test_a_compiled_and_an_exported_network_keep_the_operator_whole():
    network, x = kbnet.create_model("kbnet-nano", width=8).eval(), torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        expected = network(x)
    with torch.no_grad():
        exported = torch.export.export(network, (x,))
        whole = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(exported.module()(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(whole(x), expected, rtol=0, atol=1e-5)
    targets = [str(node.target) for node in exported.graph.nodes]
    assert sum("kernel_basis_attention" in target for target in targets) == 15


def test_an_engine_goes_with_its_network(network):
    with torch.inference_mode():
        network(image())
    assert network in compiled._engines
    before = len(compiled._engines)
    del network
    import gc

    gc.collect()
    assert len(compiled._engines) <= before


def test_what_a_network_should_be_is_worked_out_once(network):
    with torch.inference_mode():
        network(image())
        before = conformity._checks.cache_info().misses
        for _ in range(3):
            network(image())
    assert conformity._checks.cache_info().misses == before  # each miss held about a megabyte
