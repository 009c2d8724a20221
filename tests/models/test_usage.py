"""How weights are meant to be used: what their header says, what kbnet.json says, and which of them holds."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file as save_tensors

from kbnet.errors import CheckpointError, UnknownModelError
from kbnet.inference import Restorer
from kbnet.models import Usage, create_model, find, read_weights, save_file, write_weights
from kbnet.models.usage import usage_in, usage_of, write_usage

LOCAL = Usage("denoise", "local", 32)


@pytest.fixture(scope="module")
def network():
    return create_model("kbnet-nano", width=8)


def test_weights_say_how_to_use_them_under_any_name(network, tmp_path):
    save_file(network, tmp_path / "saved.safetensors", usage=LOCAL)
    write_weights(read_weights(tmp_path / "saved.safetensors"), tmp_path / "written.safetensors", usage=LOCAL)
    for name in ("saved", "written"):
        path = shutil.move(tmp_path / f"{name}.safetensors", tmp_path / f"{name} and renamed.safetensors")
        assert usage_of(path) == LOCAL
        restorer = Restorer.from_pretrained(path)
        assert (restorer.context, restorer.window) == ("local", 32)
    assert Restorer.from_pretrained(path, context="global").context == "global"


def test_files_of_earlier_versions_go_by_the_kbnet_json_next_to_them(network, tmp_path):
    write_usage(LOCAL, tmp_path)
    for name, expected in {"model": LOCAL, "best": LOCAL, "other": None}.items():
        save_file(network, tmp_path / f"{name}.safetensors")
        assert usage_of(tmp_path / f"{name}.safetensors") == expected
    own = Usage("deblur", "tile", 8)
    save_file(network, tmp_path / "model.safetensors", usage=own, overwrite=True)
    assert usage_of(tmp_path / "model.safetensors") == own


def test_included_weights_and_unknown_ones(tmp_path):
    entry = find("denoise")
    assert usage_of("denoise") == Usage("denoise", entry.context, entry.window)
    with pytest.raises(UnknownModelError):
        usage_of(tmp_path / "missing.safetensors")
    for content in (b"", b"PK\x03\x04", b"\xff" * 64):  # reading the weights refuses these
        (tmp_path / "model.safetensors").write_bytes(content)
        assert usage_in(tmp_path / "model.safetensors") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"task": "", "window": 64}',
        '{"task": "", "context": "all", "window": 64}',
        '{"task": "", "context": "local", "window": 0}',
        '{"task": "", "context": "local", "window": 1e999}',
        '{"task": "", "context": "local", "window": "wide"}',
    ],
)
def test_damaged_settings_are_told(text, tmp_path):
    (tmp_path / "kbnet.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"kbnet\.json is damaged"):
        usage_in(tmp_path / "model.safetensors")
    save_tensors({"a": np.zeros(1)}, tmp_path / "model.safetensors", {"usage": text})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: invalid usage in the header"):
        usage_in(tmp_path / "model.safetensors")
