"""The Restorer's arguments: refusals, defaults, and weights by name."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import NETWORKS, QUIET, largest_difference, noise, on_cpu, recorded, tiles_of

from kbnet.errors import CheckpointError, InvalidInputError, UnknownModelError
from kbnet.inference import Restorer, restore, restorer
from kbnet.models import save_file

# Arguments ------------------------------------------------------------------------------------------------------------

REFUSED = {
    "tile too small": ({"tile": 63}, "expected tile 'auto', 0 for the full frame, or at least 64 pixels; got 63"),
    "negative tile": ({"tile": -64}, "at least 64 pixels; got -64"),
    "broken tile": ({"tile": 96.0}, "at least 64 pixels; got 96.0"),
    "true tile": ({"tile": True}, "at least 64 pixels; got True"),
    "other tile": ({"tile": "large"}, "at least 64 pixels; got 'large'"),
    "negative overlap": ({"overlap": -1}, "expected an overlap of 0 or more whole pixels, got -1"),
    "broken overlap": ({"overlap": 1.5}, "expected an overlap of 0 or more whole pixels, got 1.5"),
    "overlap of a whole tile": ({"tile": 64, "overlap": 64}, "expected an overlap from 0 to 60 pixels for tiles of 64"),
    "overlap without a step": (
        {"tile": 64, "overlap": 61},
        "from 0 to 60 pixels for tiles of 64, got 61; use a larger tile",
    ),
    "context": ({"context": "galactic"}, "expected context 'auto', 'global', 'local' or 'tile', got 'galactic'"),
    "window": ({"window": 0}, "expected a window of at least 1 whole pixel, got 0"),
    "broken window": ({"window": 6.5}, "expected a window of at least 1 whole pixel, got 6.5"),
    "dtype": ({"dtype": "int8"}, "expected dtype 'auto', 'float32' or 'bfloat16', got 'int8'"),
    "torch dtype": ({"dtype": torch.float64}, "expected dtype .* got 'float64'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused_when_the_restorer_is_built(name):
    options, line = REFUSED[name]
    with pytest.raises(InvalidInputError, match=line) as refusal:
        on_cpu(QUIET, **options)
    assert "\n" not in str(refusal.value)


def test_the_largest_overlap_that_leaves_a_step_is_accepted():
    image = noise(8, 80, 3)
    result, calls = recorded(on_cpu(QUIET, tile=64, overlap=60, context="tile"), image)
    assert len(calls) == 5  # one every 4 pixels, the network's multiple
    assert result.shape == image.shape


def test_describe_says_how_images_are_restored(monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "off")  # some processors don't multiply in bfloat16 by the engine
    described = on_cpu(
        QUIET, dtype="bfloat16", tile=96, overlap=20, context="local", window=40, ensemble=True, name="mine"
    )
    assert described.describe() == {
        "model": "mine",
        "runtime": "torch",
        "device": "cpu",
        "dtype": "bfloat16",
        "tile": 96,
        "overlap": 20,
        "context": "local",
        "window": 40,
        "ensemble": True,
    }
    plain = Restorer(NETWORKS["kbnet-l"], device="cpu").describe()
    assert (plain["model"], plain["tile"], plain["overlap"]) == ("kbnet-l", "auto", 64)
    assert (plain["dtype"], plain["context"], plain["ensemble"]) == ("float32", "global", False)


def test_the_overlap_is_64_pixels_and_a_window_more_with_the_local_context_but_no_more_than_half_a_tile():
    assert on_cpu(QUIET, tile=640).describe()["overlap"] == 64
    assert on_cpu(QUIET, tile=640, context="local", window=64).describe()["overlap"] == 128
    small = on_cpu(QUIET, tile=96, context="tile")
    assert small.describe()["overlap"] == 48
    _, calls = recorded(small, noise(8, 400))
    assert len(calls) == tiles_of(8, 400, 96, 48, 4) != tiles_of(8, 400, 96, 64, 4)


# Weights by name ------------------------------------------------------------------------------------------------------


def test_a_weights_file_is_restored_with(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(QUIET, path)
    loaded = Restorer.from_pretrained(path, device="cpu", tile=0)
    image = noise(9, 11, 3)
    np.testing.assert_allclose(loaded(image), on_cpu(QUIET)(image), atol=1e-6)
    assert loaded.describe()["model"] == str(path)
    assert loaded.context == "global"


def test_shipped_weights_bring_their_context_unless_another_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "shipped.safetensors"
    save_file(QUIET, path)
    entry = SimpleNamespace(
        name="shipped", task="denoise", context="local", window=48, gray="", raw="", fast_dtype="float32"
    )
    monkeypatch.setattr(restorer, "find", lambda name, preset: {"denoise": entry}.get(name))
    monkeypatch.setattr(restorer, "resolve", lambda name, preset: {"denoise": path}.get(name))
    shipped = Restorer.from_pretrained("denoise", device="cpu")
    assert (shipped.name, shipped.context, shipped.window) == ("shipped", "local", 48)
    assert Restorer.from_pretrained("denoise", device="cpu", context="tile").context == "tile"
    image = noise(60, 70)
    np.testing.assert_allclose(restore(image), shipped(image), atol=1e-6)
    assert largest_difference(restore(image), image) > 0.1


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UnknownModelError, match="got 'no-such-model'"):
        Restorer.from_pretrained("no-such-model")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError):
        Restorer.from_pretrained(damaged)
