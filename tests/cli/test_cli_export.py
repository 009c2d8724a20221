"""`kbnet export`, and restoring with what it wrote."""

import json

import numpy as np
import pytest
from cli_files import names, picture

from kbnet.imaging import read_photo

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


@pytest.mark.parametrize("name", ["g.onnx", "g.xml"])
def test_a_graph_restores_like_the_weights_it_was_made_of(kbnet_, tiny, tmp_path, name):
    source = picture(tmp_path / "in" / "a.png", 40, 56)
    done = kbnet_("export", tiny, "-o", tmp_path / name, "--context")
    assert (done.code, done.out) == (0, b"")
    assert "any size, averages shared by tiles; differs from PyTorch by at most" in done.err
    assert "note" not in done.err
    assert kbnet_("restore", source, "-o", tmp_path / "a.png", "--model", tiny).code == 0
    done = kbnet_("restore", source, "-o", tmp_path / "b.png", "--model", tmp_path / name)
    assert done.code == 0, done.err
    assert "note" not in done.err
    expected, found = (read_photo(tmp_path / f"{which}.png").pixels.astype(int) for which in "ab")
    assert np.abs(found - expected).max() <= 1
    facts = json.loads(kbnet_("info", tmp_path / name, "--json").out)
    assert facts["pooled"] is True
    assert facts["settings"]["width"] == 8
    assert len(facts["weights_sha256"]) == 64


def test_plain_tiles_are_said_to_be_all_there_is(kbnet_, tiny, tmp_path):
    done = kbnet_("export", tiny, "-o", tmp_path / "g.onnx")
    assert "this graph averages over each tile separately" in done.err
    source = picture(tmp_path / "a.png")
    done = kbnet_("restore", source, "--model", tmp_path / "g.onnx", "-o", tmp_path / "b.png")
    assert done.code == 0
    assert "this graph averages over each tile separately" in done.err
    done = kbnet_("restore", source, "--model", tmp_path / "g.onnx", "-o", tmp_path / "c.png", "--context", "global")
    assert done.code == 2
    assert "export one with --context" in done.err


def test_a_shipped_models_window_and_licence_are_exported(kbnet_, tmp_path):
    done = kbnet_("export", "denoise-gaussian", "-o", tmp_path / "g.onnx", "--tile", "64")
    assert "64 x 64 pixels, averages over a window of 128 pixels" in done.err
    facts = json.loads(kbnet_("info", tmp_path / "g.onnx", "--json").out)
    shipped = json.loads(kbnet_("info", "denoise-gaussian", "--json").out)
    assert (facts["window"], facts["tile"], facts["task"]) == (128, 64, "denoise-gaussian")
    assert facts["license"] == shipped["license"]
    assert facts["weights_sha256"] == shipped["sha256"]


def test_weights_of_ones_own_are_exported_and_described_with_what_kbnet_json_says(kbnet_, tiny, tmp_path):
    own = tmp_path / "model.safetensors"
    own.write_bytes(tiny.read_bytes())
    assert json.loads(kbnet_("info", own, "--json").out)["context"] == "global"
    (tmp_path / "kbnet.json").write_text('{"task": "denoise", "context": "local", "window": 64}')
    described = json.loads(kbnet_("info", own, "--json").out)
    assert (described["context"], described["window"]) == ("local", 64)
    assert "averages over a window of 64 pixels" in kbnet_("export", own, "-o", tmp_path / "g.onnx").err
    facts = json.loads(kbnet_("info", tmp_path / "g.onnx", "--json").out)
    assert (facts["window"], facts["task"]) == (64, "denoise")


def test_a_package_for_darktable(kbnet_, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["a.dtmodel"], ["b.dtmodel", "--for", "darktable"]):
        done = kbnet_("export", tiny, "-o", *arguments)
        assert done.code == 0, done.err
        assert "darktable, 768 x 768 pixels" in done.err
        assert "to avoid them, add --window 128" in done.err
    assert names(tmp_path) == ["a.dtmodel", "b.dtmodel"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "g.dtmodel", "--tile", "256"], "'--tile': conflicts with a package for darktable"),
        (["-o", "g.onnx", "--for", "darktable"], "expected a name ending in .dtmodel for darktable"),
        (["-o", "g.bin"], "expected a file name ending in .onnx, .xml, .pt2, .dtmodel"),
        (["-o", "g.onnx", "--format", "openvino"], "expected a name ending in .xml for openvino"),
        (["-o", "g.onnx", "--dynamic", "--tile", "64"], "conflicts with --dynamic"),
        (["-o", "g.onnx", "--tile", "66"], "expected a tile size that is a multiple of 8"),
    ],
    ids=str,
)
def test_mistakes_are_told_in_one_line(kbnet_, tiny, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = kbnet_("export", tiny, *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert names(tmp_path) == []
