"""Only networks that are what their settings say become graphs; their caller's stays as it was."""

import copy

import numpy as np
import pytest
import torch
from graph_files import image, small
from torch import nn
from torch.nn.utils import parametrizations

from kbnet.errors import InvalidInputError
from kbnet.export import export_int8, export_model, graph_facts
from kbnet.models import create_model
from kbnet.nn import KernelBasisAttention, compiled


def tiny():
    torch.manual_seed(0)
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(1)
    return network.eval()


class Adapter(nn.Module):
    """Around a layer, whose parameters it offers as its own."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias
        self.in_channels, self.out_channels = base.in_channels, base.out_channels
        self.padding, self.stride, self.kernel_size, self.groups = base.padding, base.stride, base.kernel_size, 1

    def forward(self, x):
        return self.base(x) * 1.5


class Turned(nn.Conv2d):
    """A convolution of another kind."""

    def forward(self, x):
        return super().forward(x.flip(-1))


def adapted(network):
    network.middle[0].ffn_out = Adapter(network.middle[0].ffn_out)


def adapted_first_layer(network):
    network.first = Adapter(network.first)


def of_a_subclass(network):
    network.downsample[0].__class__ = Turned


def hooked(network):
    network.encoder[0][0].register_forward_hook(lambda module, inputs, output: output * 2)


def hooked_itself(network):
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2, *inputs[1:]))


def patched(network):
    network.decoder[0][0].gate.forward = lambda x: x.chunk(2, dim=1)[0]


def circular(network):
    network.last.padding_mode = "circular"


def one_block_more(network):
    network.middle.append(copy.deepcopy(network.middle[0]))


def normalised(network):
    parametrizations.weight_norm(network.last)


CHANGES = [
    adapted, adapted_first_layer, of_a_subclass, hooked, hooked_itself, patched, circular, one_block_more, normalised,
]  # fmt: skip


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_that_is_not_what_its_settings_say_becomes_no_graph(change, runtime, tmp_path):
    network = tiny()
    change(network)
    path = tmp_path / ("g.onnx" if runtime == "onnx" else "g.xml")
    with pytest.raises(InvalidInputError, match="graphs support only unmodified layers, but"):
        export_model(network, path, graph_facts(network), format=runtime)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_torch_program_has_what_was_changed(tmp_path):
    """It is traced, so an adapter is in it; the operator's layer, which is put into convolutions, must be plain."""
    network, x = tiny(), image(1, 3, 64, 64)
    with torch.inference_mode():
        plain = network(x)
    adapted(network)
    export_model(network, tmp_path / "g.pt2", graph_facts(network, tile=64), format="torch-export")
    with torch.inference_mode():
        expected = network(x)
        found = torch.export.load(tmp_path / "g.pt2").module()(x, None)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)
    assert float((expected - plain).abs().max()) > 1e-2
    network.middle[0].kba.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(InvalidInputError, match=r"can't convert middle\.0\.kba to plain convolutions: .* has a hook"):
        export_model(network, tmp_path / "h.pt2", graph_facts(network, tile=64), format="torch-export")
    assert [path.name for path in tmp_path.iterdir()] == ["g.pt2"]


def test_parity_is_with_the_modules_and_not_with_the_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "on")
    monkeypatch.setattr(compiled, "run", lambda *_, **__: pytest.fail("a call of the engine"))
    network = tiny()
    assert export_model(network, tmp_path / "g.onnx", graph_facts(network)) < 1e-4


@pytest.mark.parametrize(("format", "name"), [("onnx", "g.onnx"), ("openvino", "g.xml"), ("torch-export", "g.pt2")])
def test_the_callers_network_stays_as_it_was(tmp_path, format, name):
    network = tiny().double().train()
    network.first.requires_grad_(False)
    before = {key: (id(p), p.dtype, p.requires_grad, p.data_ptr()) for key, p in network.named_parameters()}
    values = copy.deepcopy(network.state_dict())
    export_model(network, tmp_path / name, graph_facts(network, tile=64), format=format)
    assert {key: (id(p), p.dtype, p.requires_grad, p.data_ptr()) for key, p in network.named_parameters()} == before
    assert all(torch.equal(t, values[key]) for key, t in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert {type(network.middle[0].kba)} == {KernelBasisAttention}


def test_nor_is_it_changed_or_passed_over_for_a_graph_of_8_bits(tmp_path):
    network = tiny().double().train()
    adapted(network)
    with pytest.raises(InvalidInputError, match=r"middle\.0\.ffn_out is of type Adapter, not Conv2d"):
        export_int8(network, tmp_path / "g.xml", graph_facts(network, task="denoise"), tmp_path)
    assert network.training
    assert {p.dtype for p in network.parameters()} == {torch.float64}


def test_the_shared_networks_are_what_they_should_be():
    from kbnet.models.description import describe_network
    from kbnet.nn.conformity import departure

    for family in ("nano", "s", "l"):
        assert departure(small(family), describe_network(small(family).config)) is None
