"""Costs: the published table to three digits, torch's own counter both ways, and memory counted by hand."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kbnet.errors import InvalidInputError
from kbnet.evaluation.costs import activation_bytes, network_costs, store_kernels, training_bytes
from kbnet.evaluation.described import DESCRIBED
from kbnet.models import PRESETS, cost, cost_of, create_model
from kbnet.ops import kernel_basis_attention, multiply_adds, register_flop_formulas
from kbnet.ops.reference import forward_by_kernels, pixel_kernels

# Parameters in millions; GMACs at 256 x 256: of convolutions, and everything counted.
TABLE = {
    "kbnet-s-gaussian-color": ("141.97", "68.7", "117.3"),
    "kbnet-s-gaussian-gray": ("141.96", "68.5", "117.1"),
    "kbnet-s-real": ("128.40", "57.8", "106.4"),
    "kbnet-l-derain": ("29.57", "107.7", "210.2"),
    "kbnet-l-defocus": ("29.57", "107.7", "210.2"),
}
SMALL = {
    "kbnet-s-gaussian-color": {"width": 8, "encoder_blocks": (1, 1), "decoder_blocks": (1, 1), "middle_blocks": 1},
    "kbnet-nano": {"width": 8, "encoder_blocks": (1,), "decoder_blocks": (1,), "middle_blocks": 1},
    "kbnet-l-derain": {"width": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 1},
}
SHAPES = (
    (1, 8, 5, 4, 3, 9, 13),
    (2, 6, 1, 2, 3, 3, 5),
    (2, 4, 3, 2, 1, 3, 5),
    (1, 3, 4, 3, 5, 5, 4),
    (1, 4, 3, 1, 3, 1, 1),
)


@cache
def row(name):
    return network_costs([name])[0]


def macs(function, *arguments):
    """By torch's counter, which counts a multiply-add as two operations."""
    register_flop_formulas()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*arguments)
    return counter.get_total_flops() / 2


def on_meta(preset, size=32, **overrides):
    with torch.device("meta"):
        network = create_model(preset, **overrides)
        return network, torch.empty(1, network.config.channels, size, size)


@pytest.mark.parametrize("name", TABLE)
def test_costs_are_the_published_table(name):
    spent = cost(PRESETS[name])
    found = (f"{spent.parameters / 1e6:.2f}", f"{spent.convolutions / 1e9:.1f}", f"{spent.total / 1e9:.1f}")
    assert found == TABLE[name]


@pytest.mark.parametrize("preset", SMALL)
def test_torchs_counter_agrees_through_the_operators_formula_and_through_matrix_products(preset):
    network, image = on_meta(preset, **SMALL[preset])
    spent = cost_of(network, image)
    assert macs(network, image) == spent.total
    assert spent.kba > 0
    assert (spent.attention > 0) == (preset == "kbnet-l-derain")
    assert macs(store_kernels(network), image) == spent.total


@pytest.mark.parametrize("shape", SHAPES)
def test_the_operator_by_formula_and_as_matrix_products(shape):
    b, c, n, g, k, h, w = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((b, c, h, w), (b, n, h, w), (n, c, g, k, k), (n, c))
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    expected = b * h * w * multiply_adds(c, n, g, k)
    assert macs(kernel_basis_attention, *tensors) == expected
    assert macs(forward_by_kernels, *tensors) == expected
    torch.testing.assert_close(forward_by_kernels(*tensors), kernel_basis_attention(*tensors, backend="reference"))


def test_a_pixels_kernel_is_the_sum_of_weighed_bases():
    generator = torch.Generator().manual_seed(0)
    a, weight, bias = (torch.randn(s, generator=generator) for s in ((2, 3), (3, 4, 2, 3, 3), (3, 4)))
    kernels, biases = pixel_kernels(a, weight, bias)
    assert kernels.shape == (2, 4, 2, 3, 3)
    for pixel in range(2):
        torch.testing.assert_close(kernels[pixel], sum(a[pixel, n] * weight[n] for n in range(3)))
        torch.testing.assert_close(biases[pixel], sum(a[pixel, n] * bias[n] for n in range(3)))


@pytest.mark.parametrize("name", DESCRIBED)
def test_described_peers_have_the_published_cost(name):
    peer, found = DESCRIBED[name], row(name)
    assert found.source.startswith("arXiv")
    assert found.parameters / 1e6 == pytest.approx(peer.parameters_published, rel=2.5e-3)
    assert found.parameters_published == round(peer.parameters_published * 1e6)
    if peer.gmacs_published:
        # NAFNet's 65 is rounded up from 63.2 of its layers; Restormer's 141 leaves the products of attention out.
        assert found.macs_convolutions / 1e9 == pytest.approx(peer.gmacs_published, rel=0.03)
    with torch.device("meta"):
        network, image = peer.build(), torch.empty(1, peer.channels, 32, 48)
    assert network(image).shape == image.shape
    assert macs(network, image) == cost_of(network, image).total


def test_parts_of_a_row_add_up():
    found = row("kbnet-l-derain")
    assert found.macs_all == found.macs_convolutions + found.macs_kba + found.macs_attention
    assert found.macs_per_pixel == found.macs_all / 256**2
    assert found.activation_bytes_by_kernels > 3 * found.activation_bytes
    assert found.training_bytes > found.activation_bytes
    assert (row("DnCNN, gray").activation_bytes_by_kernels, row("DnCNN, gray").macs_kba) == (None, 0)


def test_cost_counts_a_batch_and_transposed_convolutions():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2))
    image = torch.zeros(3, 4, 5, 7)
    spent = cost_of(network, image)
    assert spent.pixels == 3 * 5 * 7
    assert spent.total == 3 * 5 * 7 * (8 * 2 * 9 + 8 * 3 * 4) == macs(network, image)
    assert not any(module._forward_hooks for module in network)


class Chain(nn.Module):
    """Three convolutions; the middle one is four times as wide."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in ((2, 2), (2, 8), (8, 2)))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_is_that_of_tensors_alive_at_once(device):
    network, image = Chain().to(device), torch.zeros(1, 2, 5, 4, device=device)
    pixel = 4 * 5 * 4  # bytes of one channel
    # Alive together are the output of a layer and its input; a network's own input is not counted.
    assert activation_bytes(network, image) == (8 + 2) * pixel
    # Each convolution keeps its input for its weights' gradient, and the result is there too.
    assert training_bytes(network, image) == (2 + 8 + 2) * pixel


def test_views_and_parameters_are_no_activations():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x):
            y = x + 1
            return y.flatten().view(2, -1).transpose(0, 1), self.weight.view(2, 3)

    network, image = Views(), torch.zeros(1, 1, 2, 4)
    assert activation_bytes(network, image) == training_bytes(network, image) == 8 * 4


def test_storing_kernels_costs_what_the_formula_says():
    network, image = on_meta("kbnet-nano", 32, **SMALL["kbnet-nano"])
    before = activation_bytes(network, image)
    after = activation_bytes(store_kernels(network), image)
    # All C*G*k*k values of all pixels exist at once, at the first level.
    assert after - before > 32 * 32 * 8 * 4 * 9 * 4


def test_memory_is_proportional_to_pixels():
    small, large = (network_costs(["kbnet-nano"], 64, side)[0] for side in (64, 128))
    assert large.activation_bytes == pytest.approx(2 * small.activation_bytes, rel=0.01)
    assert large.macs_per_pixel == pytest.approx(small.macs_per_pixel, rel=0.01)


@pytest.mark.parametrize(("names", "size"), [(["ResNet"], (256, 256)), (["kbnet-nano"], (250, 256)), ([], (0, 16))])
def test_what_cannot_be_counted_is_refused(names, size):
    with pytest.raises(InvalidInputError, match=r"(unknown network|expected sides that are multiples of 16)"):
        network_costs(names, *size)
