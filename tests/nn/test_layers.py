"""Each layer against its formula."""

import pytest
import torch
from torch.nn import functional as F

from kbnet.description import coefficient_width
from kbnet.errors import InvalidInputError
from kbnet.nn import CoefficientHead, FullFrame, KernelBasisAttention, LayerNorm2d, SimpleGate, TransposedAttention
from kbnet.nn.layers import ChannelBranch
from kbnet.ops import kernel_basis_attention


def randomise(module, seed=0):
    """Every parameter random in float64, so that none hides behind its initial one or zero."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def test_layer_norm_follows_its_formula_at_each_pixel():
    norm = randomise(LayerNorm2d(6))
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64) * 1e-3  # small, so that eps counts
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    expected = (x - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_simple_gate_multiplies_the_first_half_of_the_channels_by_the_second():
    x = torch.randn(2, 6, 3, 5)
    assert torch.equal(SimpleGate()(x), x[:, :3] * x[:, 3:])


def test_kernel_basis_attention_is_the_operator_with_its_own_bases():
    layer = randomise(KernelBasisAttention(8, bases=3, group_channels=4, kernel_size=3))
    x, a = torch.randn(2, 8, 5, 4, dtype=torch.float64), torch.randn(2, 3, 5, 4, dtype=torch.float64)
    weight = layer.weight.view(3, 8, 4, 3, 3)
    assert torch.equal(layer(x, a), kernel_basis_attention(x, a, weight, layer.bias))


def test_bases_start_uniform_within_the_authors_bound():
    layer = KernelBasisAttention(64, bases=32, group_channels=4, kernel_size=3)
    bound = 1 / (32 * 64 * 4 * 9) ** 0.5
    for parameter in (layer.weight, layer.bias):
        assert bound * 0.99 < parameter.abs().max() <= bound
        assert abs(parameter.std() / (bound / 3**0.5) - 1) < 0.05  # the deviation of a uniform variable


def test_kernel_basis_attention_refuses_channels_that_its_groups_do_not_divide():
    with pytest.raises(InvalidInputError, match=r"expected channels to be divisible by group_channels \(4\), got 6"):
        KernelBasisAttention(6, group_channels=4)


def test_the_coefficient_head_adds_a_scaled_gated_branch_to_a_projection():
    head = randomise(CoefficientHead(8, bases=5, hidden=4))
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    grouped = F.conv2d(x, head.grouped.weight, head.grouped.bias, padding=1, groups=4)
    gated = grouped[:, :2] * grouped[:, 2:]
    expanded = F.conv2d(gated, head.expand.weight, head.expand.bias)
    expected = expanded * head.scale + F.conv2d(x, head.projection.weight, head.projection.bias)
    torch.testing.assert_close(head(x), expected)


def test_the_gated_branch_starts_at_a_hundredth():
    assert torch.equal(CoefficientHead(8, 5, 4).scale, torch.full((1, 5, 1, 1), 1e-2))


@pytest.mark.parametrize("hidden", [3, 6, 16])
def test_the_coefficient_head_refuses_a_hidden_width_that_is_odd_or_does_not_divide(hidden):
    with pytest.raises(
        InvalidInputError, match=rf"expected hidden to be even and to divide channels \(8\), got {hidden}"
    ):
        CoefficientHead(8, 5, hidden)


@pytest.mark.parametrize(
    ("limit", "levels"), [(32, (4, 8, 16, 32, 64, 128, 256, 512, 1024)), (24, (12, 24, 48, 96, 192, 384))]
)
def test_at_the_authors_widths_the_hidden_width_is_their_minimum(limit, levels):
    assert [coefficient_width(width, limit) for width in levels] == [min(width, limit) for width in levels]


def test_at_other_widths_the_hidden_width_is_the_largest_even_divisor_under_the_limit():
    assert [coefficient_width(width, 32) for width in (2, 6, 20, 40, 48, 62, 80)] == [2, 6, 20, 20, 24, 2, 20]


@pytest.mark.parametrize("width", [1, 3, 45])
def test_an_odd_number_of_channels_has_no_hidden_width(width):
    with pytest.raises(InvalidInputError, match=f"expected an even number of channels, got {width}"):
        coefficient_width(width, 32)


def test_the_channel_branch_mixes_the_means_over_the_image():
    branch = randomise(ChannelBranch(4, 6))
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    expected = F.conv2d(x.mean((2, 3), keepdim=True), branch.mix.weight, branch.mix.bias)
    torch.testing.assert_close(branch(x, FullFrame()), expected)


def plain_transposed_attention(layer, x):
    """Restormer's formula, with the lengths taken by F.normalize."""
    b, c, h, w = x.shape
    q, k, v = layer.qkv_depthwise(layer.qkv(x)).reshape(b, 3, layer.heads, c // layer.heads, h * w).unbind(1)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = (q @ k.transpose(-1, -2) * layer.temperature).softmax(-1)
    return layer.out((attention @ v).reshape(b, c, h, w))


@pytest.mark.parametrize(("heads", "bias"), [(1, False), (2, True), (4, False), (8, True)])
def test_transposed_attention_equals_the_plain_formula(heads, bias):
    layer = randomise(TransposedAttention(8, heads, bias))
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x, FullFrame()), plain_transposed_attention(layer, x))


@pytest.mark.parametrize("scale", [0.0, 1e-13, 1e-20])
def test_transposed_attention_keeps_the_plain_formula_where_lengths_vanish(scale):
    layer = randomise(TransposedAttention(4, 2))
    x = torch.randn(1, 4, 3, 5, dtype=torch.float64) * scale
    ours, plain = layer(x, FullFrame()), plain_transposed_attention(layer, x)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=0)
