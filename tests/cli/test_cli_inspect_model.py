"""`kbnet inspect model` and `kbnet inspect cost`: figures and tables, and one line for what cannot be."""

import json
import sys

import numpy as np
import pytest
from cli_files import names, picture

from kbnet.imaging import read_photo


@pytest.fixture
def photo(tmp_path):
    return picture(tmp_path / "photo.png", 50, 70)


def test_a_block_is_drawn_beside_the_photo_and_not_over_a_file(kbnet_, tiny, photo, tmp_path):
    pytest.importorskip("matplotlib")
    done = kbnet_("inspect", "model", tiny, photo)
    target = tmp_path / "photo-tiny-decoder.0.0.png"
    assert (done.code, done.out, done.err) == (0, b"", f"figure: {target}\n")
    first = read_photo(target).pixels
    assert first.shape[1] > 1000
    again = kbnet_("inspect", "model", tiny, photo)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "the file exists" in again.err
    chosen = ("--pixel", "69,49", "--pixel", "60,45", "--group", 0, "--size", 32, "--context", "local")
    assert kbnet_("inspect", "model", tiny, photo, "-o", target, "--overwrite", *chosen).code == 0
    assert not np.array_equal(first, read_photo(target).pixels)
    assert names(tmp_path) == ["photo-tiny-decoder.0.0.png", "photo.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--block", "encoder.7.0"),
            "expected one of the blocks encoder.0.0, middle.0, decoder.0.0; got 'encoder.7.0'",
        ),
        (("--pixel", "70,0"), "expected a pixel x,y inside the image of 70 x 50, got 70,0"),
        (("--pixel", "1;2"), "expected --pixel X,Y with whole numbers, such as 120,45; got '1;2'"),
        (("--pixel", "-1,2"), "expected --pixel X,Y with whole numbers, such as 120,45; got '-1,2'"),
        (("--pixel", "0,0", "--pixel", "69,49", "--size", "32"), "the part drawn"),
        (("--pixel", "1,1") * 7, "expected up to 6 pixels, got 7"),
        (("--group", "99"), "expected a group from 0 to 1 in block decoder.0.0, got 99"),
        (("--context", "tile"), "expected --context global or local, got 'tile'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(kbnet_, tiny, photo, tmp_path, arguments, message):
    done = kbnet_("inspect", "model", tiny, photo, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert names(tmp_path) == ["photo.png"]


def test_an_exported_graph_has_no_blocks_to_look_into(kbnet_, tiny, photo, monkeypatch):
    import kbnet.inference.restorer  # noqa: F401  # which keeps the class itself

    monkeypatch.setattr("kbnet.inference.runners.graphs.ExportedNetwork", object)
    done = kbnet_("inspect", "model", tiny, photo)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "expected weights, got the exported graph" in done.err


def test_too_small_a_photo_and_a_missing_extra(kbnet_, tiny, photo, tmp_path, monkeypatch):
    done = kbnet_("inspect", "model", tiny, picture(tmp_path / "small.png", 1, 9))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "expected a photo of at least 2 x 2 pixels, got 9 x 1" in done.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    without = kbnet_("inspect", "model", tiny, photo)
    assert without.code == 1
    assert "pip install 'kbnet[eval]'" in without.err


def test_costs_as_a_table_and_as_json(kbnet_):
    some = ("kbnet-nano", "FFDNet, colour")
    done = kbnet_("inspect", "cost", *some, "--json")
    assert (done.code, done.err) == (0, "")
    ours, theirs = json.loads(done.out)["networks"]
    assert (ours["network"], theirs["network"]) == some
    assert ours["macs_all"] == ours["macs_convolutions"] + ours["macs_kba"] > ours["macs_convolutions"]
    assert (theirs["source"], theirs["macs_kba"]) == ("arXiv 1710.04026", 0)
    table = kbnet_("inspect", "cost", *some, "--size", "128x64")
    assert (table.code, table.err) == (0, "")
    text = table.out.decode()
    assert all(part in text for part in (*some, "128 x 64", "GMACs", "arXiv 1710.04026", "convolutions only"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ResNet",), "unknown network ResNet; expected one of kbnet-s-gaussian-color; "),
        (("--size", "256"), "expected --size WxH, such as 256x256; got '256'"),
        (("kbnet-nano", "--size", "250x256"), "expected sides that are multiples of 16, got 250 x 256"),
    ],
)
def test_costs_that_cannot_be_counted_are_one_line(kbnet_, arguments, message):
    done = kbnet_("inspect", "cost", *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
