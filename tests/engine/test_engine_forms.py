"""Networks of every form that settings allow, on every instruction set, in both types.

A result may differ from float64 by at most twice the layers' error in the same type, and a few roundings. Memory starts
as NaN (see conftest.py): a value that is read before it is written shows.
"""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from lively_networks import enliven

import kbnet
from kbnet import nn
from kbnet.engine import Engine, Local
from kbnet.errors import InvalidInputError
from kbnet.ops import native

pytestmark = pytest.mark.skipif(native.refuses_here() is not None, reason="no compiled kernels")
INSTRUCTION_SETS = native.instruction_sets() if native.refuses_here() is None else ()
IN_BFLOAT16 = native.bfloat16_instruction_sets() if native.refuses_here() is None else ()

ONE_LEVEL = {"encoder_blocks": (1,), "decoder_blocks": (0,), "middle_blocks": 0}
# Settings that differ from the preset's, and (B, H, W): every remainder of the register tiles, one tile and several.
SMALL = {
    "one pixel": ({"width": 8, "bases": 3}, (1, 1, 1)),
    "a batch of pixels": ({"width": 8, "bases": 8}, (3, 1, 1)),
    "one row": ({"width": 8, "bases": 4, "lightweight": True}, (1, 1, 83)),
    "one column": ({"width": 4, "bases": 5}, (2, 71, 1)),
    "5x7": ({"width": 16, "bases": 8, "lightweight": True}, (2, 5, 7)),
    "several tiles": ({"width": 16, "bases": 8, "lightweight": True}, (2, 37, 133)),
    "several tiles, 5x5 static": ({"width": 8, "bases": 6}, (1, 41, 117)),
    "one channel a group": ({"width": 6, "bases": 4, "group_channels": 1, "lightweight": True}, (1, 9, 20)),
    "three channels a group": ({"width": 12, "bases": 4, "group_channels": 3}, (1, 9, 20)),
    "two channels a group": ({"width": 20, "bases": 9, "group_channels": 2}, (1, 11, 34)),
    "one group": ({"width": 8, "bases": 3, "group_channels": 8}, (1, 10, 18)),
    "one basis": ({"width": 8, "bases": 1}, (1, 6, 31)),
    "32 bases": ({"width": 32, "bases": 32}, (1, 12, 40)),
    "1x1 bases": ({"width": 8, "bases": 4, "kernel_size": 1, "lightweight": True}, (1, 7, 19)),
    "5x5 bases": ({"width": 8, "bases": 4, "kernel_size": 5, "lightweight": True}, (1, 9, 70)),
    "7x7 bases on a smaller image": ({"width": 8, "bases": 4, "kernel_size": 7}, (1, 3, 2)),
    "many channels": ({"width": 224, "bases": 4, "lightweight": True}, (1, 3, 5)),
    "narrow feed-forward": ({"width": 12, "bases": 4, "ffn_scale": 1.5}, (1, 6, 17)),
}
LARGE = {
    "large": ({"width": 12, "bases": 5}, (2, 8, 24)),
    "large, one channel a group": ({"width": 8, "bases": 4, "group_channels": 1, "bias": True}, (1, 40, 88)),
    "large, heads of six": ({"width": 6, "heads": (1, 2, 2, 2), "group_channels": 1, "bias": True}, (1, 24, 40)),
    "large, odd hidden channels": (
        {"width": 6, "heads": (1, 2, 2, 2), "group_channels": 1, "expansion": 1.5},
        (1, 16, 40),
    ),
    "large, one cell": ({"width": 4, "bases": 4}, (1, 8, 8)),
}


def made(name):
    """The network in eval mode, with weights that matter."""
    torch.manual_seed(0)
    if name in SMALL:
        network = kbnet.create_model("kbnet-s-gaussian-color", **ONE_LEVEL, **SMALL[name][0])
    else:
        levels = {"blocks": (1, 1, 0, 1), "heads": (1, 2, 2, 2), "refinement_blocks": 0, "coefficient_limit": 4}
        network = kbnet.create_model("kbnet-l-derain", **(levels | LARGE[name][0]))
    return enliven(network, 0.3)


def engine_of(network, **options):
    arrays = {name: np.ascontiguousarray(value.detach().numpy()) for name, value in network.named_parameters()}
    return Engine(asdict(network.config), arrays, threads=2, **options)


def image(batch, height, width):
    return np.random.default_rng(1).normal(0.5, 0.5, (batch, 3, height, width)).astype(np.float32)


def by_layers(network, x, dtype, context=None):
    with torch.no_grad(), nn.fused.layers_alone():
        image = torch.from_numpy(x).to(torch.float64 if dtype == torch.float64 else torch.float32)
        changed = network.to(dtype)(image, context).double().numpy() - x
    network.float()
    return changed


def size_of(error):
    return {"rms": np.sqrt(np.square(error).mean()), "largest": np.abs(error).max()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_it_errs_no_more_than_the_layers(name, instruction_set, dtype):
    network, x = made(name), image(*(SMALL | LARGE)[name][1])
    engine = engine_of(network, instruction_set=instruction_set, dtype=dtype)
    assert engine.dtype == (dtype if instruction_set in IN_BFLOAT16 else "float32")
    ours = engine(x).astype(np.float64) - x
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    layers = by_layers(network, x, getattr(torch, dtype))
    network.load_state_dict(weights)  # bfloat16 has rounded them
    exact = by_layers(network, x, torch.float64)
    # On the matrix unit, a float32 number is the sum of two bfloat16 numbers.
    split = dtype == "float32" and instruction_set.startswith("amx")
    rounding = 2.0**-17 if split else torch.finfo(getattr(torch, dtype)).eps
    error, baseline, scale = (size_of(e) for e in (ours - exact, layers - exact, exact))
    # Single pixels differ by chance. The image itself is added in float32.
    for kind, roundings in (("rms", 0.25), ("largest", 4)):
        allowed = 2 * baseline[kind] + roundings * rounding * scale[kind] + 1e-7
        assert error[kind] <= allowed, f"{kind}: {error[kind]:.3g} > {allowed:.3g}"


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_included_weights_are_exact(instruction_set):
    """Also where a float32 number is the sum of two bfloat16 numbers."""
    network, x = kbnet.load_model("denoise"), image(1, 40, 56)
    ours = engine_of(network, instruction_set=instruction_set)(x) - x
    np.testing.assert_allclose(ours, by_layers(network, x, torch.float64), atol=1e-5)


def test_wide_levels():
    torch.manual_seed(0)
    settings = {"width": 520, "bases": 1, "lightweight": True}
    network, x = kbnet.create_model("kbnet-s-gaussian-color", **ONE_LEVEL, **settings).eval(), image(1, 4, 6)
    ours = engine_of(network)(x) - x
    np.testing.assert_allclose(ours, by_layers(network, x, torch.float64), atol=1e-5)


@pytest.mark.parametrize("window", [3, 8, 20, 24, 40, 64, 120])
def test_windows_of_any_size(window):
    """Cells of one pixel and of several, whole and cut ones; some as wide as the steps between a vector's pixels."""
    network, x = made("several tiles"), image(2, 46, 134)
    exact = by_layers(network, x, torch.float64, nn.Local(window))
    for instruction_set in INSTRUCTION_SETS:
        ours = engine_of(network, instruction_set=instruction_set)(x, Local(window)) - x
        np.testing.assert_allclose(ours, exact, atol=2e-5, err_msg=instruction_set)


def test_bfloat16_differs_from_float32_only_where_it_is_multiplied_in():
    network, x = made("5x7"), image(1, 20, 30)
    exact = engine_of(network)(x)
    for instruction_set in INSTRUCTION_SETS:
        same = np.array_equal(
            engine_of(network, instruction_set=instruction_set, dtype="bfloat16")(x),
            engine_of(network, instruction_set=instruction_set)(x),
        )
        assert same == (instruction_set not in IN_BFLOAT16)
    assert np.abs(engine_of(network, dtype="bfloat16")(x) - exact).max() < 0.02
    with pytest.raises(InvalidInputError, match="expected dtype 'float32' or 'bfloat16', got 'float16'"):
        engine_of(network, dtype="float16")


@pytest.mark.parametrize("instruction_set", IN_BFLOAT16)
@pytest.mark.parametrize("name", ["several tiles", "large", "5x7"])
def test_one_measurement_of_a_network_in_bfloat16_holds_for_every_instruction_set(name, instruction_set):
    """The catalogue has one. Networks of few bases round the same numbers, but sums in another order now and then round
    the other way."""
    network, x = made(name), image(*(SMALL | LARGE)[name][1])
    ours, first = (
        engine_of(network, instruction_set=s, dtype="bfloat16")(x) for s in (instruction_set, IN_BFLOAT16[0])
    )
    assert size_of(ours - first)["rms"] <= 0.4 * size_of(first - engine_of(network)(x))["rms"]


def test_nan_spreads_no_further_than_the_layers_spread_it():
    network, x = made("several tiles"), image(1, 40, 120)
    x[0, 1, 9, 70] = np.nan
    context = nn.Shared([torch.rand(1, 16, 1, 1)])
    with torch.no_grad():
        expected = network(torch.from_numpy(x), context).isnan().numpy()
    shared = kbnet.engine.Shared([mean.numpy().ravel() for mean in context.means])
    assert np.array_equal(np.isnan(engine_of(network)(x, shared)), expected)
    assert 0 < expected.mean() < 0.5


@pytest.mark.parametrize("bits", [0x7FFFFFFF, -1, 0x7F800001], ids=["all ones", "all ones, negative", "the smallest"])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_any_nan_stays_nan_where_products_are_of_bfloat16(bits, instruction_set):
    """Rounding by adding to the bits would carry some of them into the sign, or into infinity."""
    network, x = made("5x7"), image(1, 20, 90)
    with torch.no_grad():  # a value times a NaN is that NaN
        norm = network.encoder[0][0].fusion_norm
        norm.weight[7] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    y = engine_of(network, instruction_set=instruction_set, dtype="bfloat16")(x)
    assert np.isnan(y).all()  # every output channel reads the last one, which is NaN before the first product
