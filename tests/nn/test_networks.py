"""The two networks: the authors' outputs, sizes, memory format, settings that make no network."""

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load_file as load_tensors

from kbnet.errors import InvalidInputError
from kbnet.models import PRESETS, KBNetL, KBNetLConfig, KBNetS, KBNetSConfig, build, count_parameters, load_file

FIXTURES = ("kbnet_s_color", "kbnet_s_gray", "kbnet_s_light", "kbnet_l")
S = KBNetSConfig(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), bases=4)
L = KBNetLConfig(width=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4), bases=4)


def relative_error(result, exact):
    return float((result.double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_a_network_gives_the_authors_output(name, dtype, tolerance, official):
    case = load_tensors(official / f"{name}.safetensors")
    network = load_file(official / f"{name}.pth").to(dtype)
    with torch.inference_mode():
        output = network(case["input"].to(dtype))
    assert output.dtype == dtype
    assert relative_error(output, case["output_float64"]) < tolerance


@pytest.mark.parametrize("name", FIXTURES)
def test_the_authors_output_does_not_hinge_on_the_memory_format(name, official):
    case = load_tensors(official / f"{name}.safetensors")
    network = load_file(official / f"{name}.pth").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        output = network(case["input"].contiguous(memory_format=torch.channels_last))
    assert relative_error(output, case["output_float64"]) < 1e-4


@pytest.mark.parametrize("config", [S, L], ids=["kbnet-s", "kbnet-l"])
def test_channels_last_and_contiguous_memory_agree_forward_and_backward(config):
    torch.manual_seed(0)
    plain, image = build(config), torch.rand(2, 3, 16, 8)
    last = build(config).to(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    plain(image).square().sum().backward()
    last(image.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), last.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-7, name


@pytest.mark.parametrize("config", [S, L], ids=["kbnet-s", "kbnet-l"])
def test_every_parameter_takes_part_in_the_output(config):
    network = build(config)
    network(torch.rand(1, 3, 16, 16)).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


# Published, in millions; a compact preset's own figure is in the catalogue of shipped weights.
PUBLISHED = {
    "kbnet-s-gaussian-color": 141.97,
    "kbnet-s-gaussian-gray": 141.96,
    "kbnet-s-real": 128.40,
    "kbnet-l-derain": 29.57,
    "kbnet-l-defocus": 29.57,
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_a_published_preset_has_the_published_number_of_parameters(preset):
    with torch.device("meta"):
        assert round(count_parameters(build(PRESETS[preset])) / 1e6, 2) == PUBLISHED[preset]


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_has_the_authors_number_of_parameters(name, official, official_index):
    assert count_parameters(load_file(official / f"{name}.pth")) == official_index[name]["params"]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 4), (7, 1), (13, 10)])
def test_kbnet_s_takes_any_size_and_pads_with_zeros_below_and_right(size):
    torch.manual_seed(0)
    network, image = KBNetS(S).eval(), torch.rand(2, 3, *size)
    height, width = (-(-side // 4) * 4 for side in size)
    padded = torch.zeros(2, 3, height, width)
    padded[..., : size[0], : size[1]] = image
    with torch.inference_mode():
        output = network(image)
        torch.testing.assert_close(output, network(padded)[..., : size[0], : size[1]], rtol=1e-5, atol=1e-5)
    assert output.shape == image.shape
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [(8, 12), (12, 8), (7, 8), (1, 1), (8, 9)])
def test_kbnet_l_refuses_sides_that_are_not_multiples_of_eight(size):
    with pytest.raises(InvalidInputError, match=rf"multiples of 8, got \[1, 3, {size[0]}, {size[1]}\]; pad it"):
        KBNetL(L)(torch.rand(1, 3, *size))


def test_kbnet_l_takes_its_smallest_size():
    with torch.inference_mode():
        assert KBNetL(L)(torch.rand(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize("config", [S, L], ids=["kbnet-s", "kbnet-l"])
@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (1, 1, 16, 16), (1, 4, 16, 16), (1, 3, 0, 16), (1, 3, 16, 0), (1, 3, 2, 8, 8)]
)
def test_an_input_that_is_no_image_batch_is_refused(config, shape):
    with pytest.raises(InvalidInputError, match=r"expected an image \[B,3,H,W\]"):
        build(config)(torch.zeros(shape))


@pytest.mark.parametrize("config", [S, L], ids=["kbnet-s", "kbnet-l"])
def test_the_images_of_a_batch_do_not_see_each_other(config):
    torch.manual_seed(0)
    network, images = build(config).eval(), torch.rand(2, 3, 16, 8)
    with torch.inference_mode():
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [S, L], ids=["kbnet-s", "kbnet-l"])
def test_a_network_starts_near_the_identity_of_its_global_residual(config):
    network, image = build(config), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        for parameter in network.last.parameters():
            parameter.zero_()
        assert torch.equal(network(image), image)


IMPOSSIBLE = [
    (KBNetSConfig, {"width": 10**9}),
    (KBNetSConfig, {"width": 0}),
    (KBNetSConfig, {"width": -8}),
    (KBNetSConfig, {"width": 6}),  # the groups of four channels do not divide it
    (KBNetSConfig, {"width": 8.0}),
    (KBNetSConfig, {"width": True}),
    (KBNetSConfig, {"channels": 0}),
    (KBNetSConfig, {"encoder_blocks": (10**9,), "decoder_blocks": (1,)}),
    (KBNetSConfig, {"encoder_blocks": (-1,), "decoder_blocks": (1,)}),
    (KBNetSConfig, {"encoder_blocks": (1.5,), "decoder_blocks": (1,)}),
    (KBNetSConfig, {"encoder_blocks": (), "decoder_blocks": ()}),
    (KBNetSConfig, {"encoder_blocks": (1,) * 40, "decoder_blocks": (1,) * 40}),
    (KBNetSConfig, {"encoder_blocks": (1, 1, 1)}),
    (KBNetSConfig, {"middle_blocks": 10**9}),
    (KBNetSConfig, {"ffn_scale": math.nan}),
    (KBNetSConfig, {"ffn_scale": math.inf}),
    (KBNetSConfig, {"ffn_scale": -1.0}),
    (KBNetSConfig, {"ffn_scale": 10**400}),
    (KBNetSConfig, {"width": 4, "ffn_scale": 0.1}),  # no hidden channel is left
    (KBNetSConfig, {"width": 4, "ffn_scale": 0.8}),  # an odd number of hidden channels cannot be halved
    (KBNetSConfig, {"bases": 0}),
    (KBNetSConfig, {"bases": 10**9}),
    (KBNetSConfig, {"group_channels": 3}),
    (KBNetSConfig, {"kernel_size": 4}),
    (KBNetSConfig, {"kernel_size": 10**9 + 1}),
    (KBNetSConfig, {"kernel_size": -3}),
    (KBNetSConfig, {"coefficient_limit": 1}),
    (KBNetLConfig, {"width": 10**9}),
    (KBNetLConfig, {"width": 0}),
    (KBNetLConfig, {"blocks": (4, 6, 6)}),
    (KBNetLConfig, {"blocks": (4, 6, 6, 10**9)}),
    (KBNetLConfig, {"heads": (1, 2, 4, 5)}),  # five heads do not divide 384 channels
    (KBNetLConfig, {"heads": (0, 2, 4, 8)}),
    (KBNetLConfig, {"refinement_blocks": -1}),
    (KBNetLConfig, {"expansion": math.nan}),
    (KBNetLConfig, {"expansion": 1e9}),
    (KBNetLConfig, {"group_channels": 7}),
]


@pytest.mark.parametrize(("kind", "settings"), IMPOSSIBLE, ids=lambda value: str(value)[:60])
def test_settings_that_make_no_network_are_refused_at_once(kind, settings):
    with pytest.raises(InvalidInputError, match="expected"):
        kind(**settings)


def test_settings_given_as_lists_are_the_same_settings():
    listed = KBNetSConfig(encoder_blocks=[2, 2, 4, 8], decoder_blocks=[2, 2, 2, 2])
    assert listed == KBNetSConfig()
    assert hash(listed) == hash(KBNetSConfig())


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_cannot_be_changed_under_a_network(preset):
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS[preset].width = 8
