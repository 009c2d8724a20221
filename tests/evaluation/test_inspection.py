"""What is drawn of a block is what the operator does: effective kernels applied by hand, hooks gone, pixels typical."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kbnet.errors import InvalidInputError
from kbnet.evaluation.inspection import (
    block_names,
    check_pixels,
    default_block,
    inspect_block,
    typical_pixels,
)
from kbnet.models import create_model
from kbnet.nn import FullFrame, Local
from kbnet.ops import kernel_basis_attention

S = {"width": 8, "encoder_blocks": (1, 2), "decoder_blocks": (1, 1), "middle_blocks": 1, "bases": 5}
L = {"width": 8, "blocks": (1, 1, 1, 1), "refinement_blocks": 2, "bases": 3}


def network_of(family):
    torch.manual_seed(0)
    network = create_model("kbnet-nano", **S) if family == "S" else create_model("kbnet-l-derain", **L)
    # Scales of 0.01 would hide what a branch does to the output.
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name.endswith("scale"):
                p.fill_(0.7)
    return network.eval()


def image_of(height=24, width=32):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["S", "L"])
def test_the_effective_kernel_applied_by_hand_is_the_operators_output(family):
    network, image = network_of(family), image_of()
    for name in block_names(network):
        view = inspect_block(network, image, name)
        per_group, k = view.bases.shape[2:4]
        padded = F.pad(view.features, (k // 2,) * 4)
        height, width = view.features.shape[1:]
        for x, y in ((0, 0), (width - 1, height - 1), (width // 2, 0), (width // 2, height // 2)):
            kernel, bias = view.effective_kernel((x, y))
            around = padded[:, y : y + k, x : x + k]
            by_hand = [
                (kernel[c] * around[c // per_group * per_group : (c // per_group + 1) * per_group]).sum() + bias[c]
                for c in range(len(kernel))
            ]
            torch.testing.assert_close(torch.stack(by_hand), view.filtered[:, y, x], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["S", "L"])
@pytest.mark.parametrize("context", [None, Local(8)], ids=["global", "local"])
def test_branches_are_those_of_the_block(family, context):
    network, image = network_of(family), image_of()
    with torch.inference_mode():
        expected = network(image[None], context or FullFrame())[0]
    name = block_names(network)[0]
    view = inspect_block(network, image, name, context)
    torch.testing.assert_close(view.output, expected, rtol=1e-4, atol=1e-5)
    filtered = kernel_basis_attention(view.features[None], view.coefficients[None], view.bases, view.biases)
    torch.testing.assert_close(filtered[0], view.filtered, rtol=1e-4, atol=1e-5)
    # The first block sees the first convolution's output, so all its branches can be computed again from the layers.
    block = network.get_submodule(name)
    fusion = block.fusion if family == "L" else block
    with torch.inference_mode():
        x = network.first(image[None])
        u = block.fusion_norm(x)
        static = fusion.static_branch(u)
        static = F.gelu(static) if family == "L" else static
        v = fusion.adaptive_in(u)
        adaptive = fusion.kba(v, fusion.coefficients(u)) * fusion.kba_scale + v
        channel = fusion.channel_branch(u, context or FullFrame())
    for found, wanted in (
        (view.static, static),
        (view.adaptive, adaptive),
        (view.channel, channel),
        (view.product, static * adaptive * channel),
    ):
        torch.testing.assert_close(found, wanted[0], rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("family", "last"), [("S", "decoder.1.0"), ("L", "refinement.1")])
def test_blocks_are_named_in_the_order_of_the_image(family, last):
    network = network_of(family)
    names = block_names(network)
    assert names[:2] == ["encoder.0.0", "encoder.1.0"]
    assert names[-1] == default_block(network) == last
    assert inspect_block(network, image_of()).name == last


@pytest.mark.parametrize(("family", "middle", "side"), [("S", "middle.0", 4), ("L", "middle.0", 8)])
def test_a_blocks_pixels_are_found_at_its_resolution(family, middle, side):
    view = inspect_block(network_of(family), image_of(), middle)
    assert view.stride == side
    assert view.coefficients.shape[1:] == (24 // side, 32 // side)
    assert view.at((31, 23)) == (32 // side - 1, 24 // side - 1)
    assert view.at((0, side - 1)) == (0, 0)


def test_sides_that_are_padded_keep_their_stride():
    view = inspect_block(network_of("S"), image_of(21, 30), "middle.0")
    assert (view.stride, view.coefficients.shape[1:]) == (4, (6, 8))
    assert view.output.shape == (3, 21, 30)


def test_the_strongest_group_has_the_most_varied_kernels():
    view = inspect_block(network_of("S"), image_of(), "encoder.1.0")
    kernels = torch.einsum("nhw,ncjuv->cjuvhw", view.coefficients, view.bases).flatten(1, 3)
    variance = kernels.flatten(2).var(2).sum(1).unflatten(0, (-1, view.bases.shape[2])).sum(1)
    assert view.strongest_group() == int(variance.argmax())


def test_one_basis_has_a_strongest_group_too():
    torch.manual_seed(0)
    network = create_model("kbnet-nano", **{**S, "bases": 1}).eval()
    assert inspect_block(network, image_of()).strongest_group() in (0, 1)


@pytest.mark.parametrize("block", ["encoder.9.0", "first", ""])
def test_a_block_that_there_is_not_is_refused_with_all_names(block):
    with pytest.raises(InvalidInputError, match=r"encoder\.0\.0, .*decoder\.1\.0"):
        inspect_block(network_of("S"), image_of(), block)


def scene():
    """Left gray and flat, then a step to black, then a checkerboard at the right."""
    gray = np.full((96, 160), 0.5, np.float32)
    gray[:, 60:] = 0.1
    checks = (np.add.outer(np.arange(96) // 2, np.arange(60) // 2) % 2).astype(np.float32)
    gray[:, 100:] = 0.2 + 0.6 * checks
    return gray


def test_typical_pixels_lie_where_they_should():
    found = typical_pixels(scene())
    assert list(found) == ["edge", "flat", "texture"]
    assert 58 <= found["edge"][0] <= 61
    assert found["texture"][0] > 100
    assert found["flat"][0] < 50 or 70 < found["flat"][0] < 90


def test_a_clipped_area_is_not_called_flat():
    gray = np.zeros((64, 128), np.float32)
    gray[:, 64:] = 0.5 + 0.01 * np.random.default_rng(0).random((64, 64), dtype=np.float32)
    assert typical_pixels(gray)["flat"][0] > 64


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (24, 24), (25, 60)])
def test_any_image_has_typical_pixels_inside(shape):
    found = typical_pixels(np.random.default_rng(0).random(shape, dtype=np.float32))
    check_pixels(list(found.values()), shape[1], shape[0])


def test_pixels_outside_are_refused():
    for pixel in ((5, 0), (0, 4), (-1, 0)):
        with pytest.raises(InvalidInputError, match="inside the image of 5 x 4"):
            check_pixels([pixel], 5, 4)
