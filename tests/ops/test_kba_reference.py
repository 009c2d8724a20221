"""The reference's numbers: against the authors', against the definition, in every memory layout and precision."""

from functools import partial

import kba_cases
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from kbnet.ops import kernel_basis_attention, multiply_adds, reference

reference_operator = partial(kernel_basis_attention, backend="reference")

FIXTURES = ("kba_k3_gc1", "kba_k3_gc2", "kba_k3_gc4", "kba_k5_gc4")


def load_case(official, official_index, name):
    """Tensors of a fixture in our shapes, and the authors' output and gradients."""
    t, settings = load_file(official / f"{name}.safetensors"), official_index[name]
    channels, k, g = t["x"].shape[1], settings["kernel_size"], settings["channels_per_group"]
    shape = (settings["num_bases"], channels, g, k, k)
    inputs = [t["x"], t["att"], t["w"].reshape(shape), t["b"][0]]
    expected = {
        "y": t["y"],
        "x": t["dx"],
        "coefficients": t["datt"],
        "weight": t["dw"].reshape(shape),
        "bias": t["db"][0],
    }
    return inputs, t["dy"], expected


@pytest.mark.parametrize("name", FIXTURES)
def test_the_reference_gives_the_authors_output_and_gradients(name, official, official_index):
    inputs, dy, expected = load_case(official, official_index, name)
    results = [reference.forward(*inputs), *reference.backward(dy, *inputs)]
    for key, result in zip(("y", *kba_cases.NAMES), results, strict=True):
        torch.testing.assert_close(result, expected[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FIXTURES)
def test_the_public_operator_and_autograd_give_the_authors_output_and_gradients(name, official, official_index):
    inputs, dy, expected = load_case(official, official_index, name)
    results = kba_cases.with_gradients(reference_operator, inputs, dy)
    for key in expected:
        torch.testing.assert_close(results[key], expected[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", kba_cases.SHAPES.values(), ids=kba_cases.SHAPES.keys())
def test_it_equals_a_kernel_mixed_for_every_pixel(shape):
    tensors = kba_cases.make(shape)
    dy = torch.randn_like(tensors[0])
    ours = kba_cases.with_gradients(reference_operator, tensors, dy)
    definition = kba_cases.with_gradients(kba_cases.naive, tensors, dy)
    for key in definition:
        torch.testing.assert_close(ours[key], definition[key], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("pixels", [1, 5, 13, 30, 10_000])
@pytest.mark.parametrize("shape", [(3, 2, 2, 1, 3, 4, 5), (2, 4, 2, 2, 5, 1, 11)])
def test_how_an_image_is_cut_into_blocks_does_not_show(shape, pixels, monkeypatch):
    tensors = kba_cases.make(shape)
    dy = torch.randn_like(tensors[0])
    limit = pixels * shape[1] * shape[2] * 8  # N*C float64 values a pixel
    monkeypatch.setattr(reference, "blocks", partial(reference.blocks, limit=limit))
    cut = kba_cases.with_gradients(reference_operator, tensors, dy)
    definition = kba_cases.with_gradients(kba_cases.naive, tensors, dy)
    for key in definition:
        torch.testing.assert_close(cut[key], definition[key], rtol=1e-11, atol=1e-11)


@given(
    batch=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    per_pixel=st.integers(1, 50),
    limit=st.integers(1, 2000),
)
def test_blocks_cover_every_pixel_once_and_keep_the_limit(batch, height, width, per_pixel, limit):
    seen = torch.zeros(batch, height, width, dtype=torch.int32)
    for block in reference.blocks(batch, height, width, per_pixel, limit):
        assert seen[block].numel() * per_pixel <= max(limit, per_pixel)
        seen[block] += 1
    assert torch.equal(seen, torch.ones_like(seen))


def rearrangements():
    """Ways in which equal values can lie in memory."""

    def strided(t):
        return torch.stack([t, torch.full_like(t, torch.nan)], dim=-1)[..., 0]

    def sliced(t):
        wide = torch.full((t.shape[0], t.shape[1] + 2, *t.shape[2:]), torch.nan, dtype=t.dtype)
        wide[:, 1:-1] = t
        return wide[:, 1:-1]

    return {
        "channels last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t,
        "every second value": strided,
        "a slice of the second axis": sliced,
        "axes transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
        "batch innermost": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    }


@pytest.mark.parametrize("backend", kba_cases.CPU_BACKENDS)
@pytest.mark.parametrize("layout", rearrangements())
def test_how_the_values_lie_in_memory_does_not_show(layout, backend):
    rearrange, operator = rearrangements()[layout], partial(kernel_basis_attention, backend=backend)
    tensors = kba_cases.make((2, 8, 3, 4, 3, 5, 6), torch.float32)
    dy = torch.randn_like(tensors[0])
    expected = kba_cases.with_gradients(operator, tensors, dy)
    moved = [rearrange(t.detach()) for t in tensors]
    result = kba_cases.with_gradients(operator, moved, rearrange(dy))
    for key in expected:
        torch.testing.assert_close(result[key], expected[key], rtol=1e-5, atol=1e-4)


def test_an_expanded_output_gradient_is_taken_as_it_is():
    tensors = kba_cases.make((1, 4, 3, 2, 3, 3, 5))
    one = torch.ones((), dtype=torch.float64).expand(1, 4, 3, 5)  # what y.sum().backward() hands over
    ours = kba_cases.with_gradients(reference_operator, tensors, one)
    definition = kba_cases.with_gradients(kba_cases.naive, tensors, one)
    for key in definition:
        torch.testing.assert_close(ours[key], definition[key], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", kba_cases.CPU_BACKENDS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_output_keeps_the_memory_format_of_the_features(memory_format, backend):
    x, *rest = (t.detach() for t in kba_cases.make((2, 8, 3, 4, 3, 5, 6), torch.float32))
    y = kernel_basis_attention(x.contiguous(memory_format=memory_format), *rest, backend=backend)
    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pixels", [20, 10_000])
def test_it_errs_at_most_twice_as_much_as_plain_pytorch_at_the_same_precision(dtype, pixels, monkeypatch):
    shape = (2, 16, 32, 4, 3, 13, 11)
    limit = pixels * shape[1] * shape[2] * 4
    monkeypatch.setattr(reference, "blocks", partial(reference.blocks, limit=limit))
    # Values that the precision holds exactly, so that only the arithmetic is compared.
    tensors = [t.detach().to(dtype) for t in kba_cases.make(shape)]
    dy = torch.randn(shape[0], shape[1], *shape[5:]).to(dtype)
    exact = kba_cases.with_gradients(kba_cases.naive, [t.double() for t in tensors], dy.double())
    baseline = kba_cases.with_gradients(kba_cases.naive, tensors, dy)
    ours = kba_cases.with_gradients(reference_operator, tensors, dy)
    for key in exact:
        assert ours[key].dtype == dtype
        allowed = 2 * kba_cases.relative_error(baseline[key], exact[key])
        assert kba_cases.relative_error(ours[key], exact[key]) <= allowed, key


def test_multiply_adds_counts_mixing_applying_and_bias():
    # One output value by hand: 3 bases, each 2 channels of 9 taps; the same taps once; a bias from each basis.
    assert multiply_adds(1, 3, 2, 3) == 3 * 18 + 18 + 3
    assert multiply_adds(64, 32, 4, 3) == 64 * multiply_adds(1, 32, 4, 3)


def test_uninitialised_memory_is_poisoned_while_testing():
    assert torch.empty(64).isnan().all()
    assert torch.empty_like(torch.ones(64)).isnan().all()
