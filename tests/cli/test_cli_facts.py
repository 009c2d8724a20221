"""`kbnet models`, `info` and `convert`, and that asking for help costs nothing."""

import json
import subprocess
import sys

import pytest
import torch
from cli_files import SOURCE, picture

from kbnet.models import PRESETS, catalogue, load_model


def answer(done):
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


def test_models_lists_networks_with_their_cost(kbnet_):
    facts = answer(kbnet_("models", "--json"))
    networks = {network["name"]: network for network in facts["networks"]}
    assert list(networks) == list(PRESETS)
    published = networks["kbnet-s-gaussian-color"]
    assert published["macs_all"] > published["macs_convolutions"] > 60e9
    assert published["input_multiple"] == 16
    assert 40e3 <= networks["kbnet-nano"]["macs_per_pixel"] <= 60e3
    assert [weights["name"] for weights in facts["weights"]] == list(catalogue())
    table = kbnet_("models", "--verbose")
    assert (table.code, table.err) == (0, "")
    assert all(name in table.out.decode() for name in (*PRESETS, "GMACS", *catalogue()))


def test_info_about_this_installation(kbnet_):
    facts = answer(kbnet_("info", "--json"))
    assert facts["torch"] == torch.__version__
    assert facts["libvips"].count(".") == 2
    assert "reference" in facts["backends"]["usable"]
    assert facts["backends"]["auto"] in facts["backends"]["usable"]
    assert list(facts["models"]) == list(catalogue())
    assert "libvips" in kbnet_("info").out.decode()


def test_info_about_weights(kbnet_, tiny):
    facts = answer(kbnet_("info", tiny, "--json"))
    assert (facts["family"], facts["settings"]["width"], facts["matching_presets"]) == ("kbnet-s", 8, [])
    assert facts["parameters"] == sum(p.numel() for p in load_model(tiny).parameters())
    assert "matching presets" in kbnet_("info", tiny).out.decode()


def test_info_about_a_picture(kbnet_, tmp_path):
    facts = answer(kbnet_("info", picture(tmp_path / "a.png"), "--json"))
    assert (facts["format"], facts["width"], facts["height"], facts["bit_depth"]) == ("png", 32, 24, 8)
    (tmp_path / "letter").write_text("Dear Sir")
    done = kbnet_("info", tmp_path / "letter")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_info_about_a_network(kbnet_):
    assert answer(kbnet_("info", "kbnet-nano", "--json"))["settings"]["width"] == 16


@pytest.mark.parametrize("name", catalogue())
def test_info_about_shipped_weights(kbnet_, name):
    facts = answer(kbnet_("info", name, "--json"))
    for key in ("license", "training_data", "recipe", "metrics", "measured_by", "parameters", "settings"):
        assert facts[key]


@pytest.mark.parametrize("layout", [None, "net", "model", "params"])
def test_convert_there_and_back(kbnet_, tiny, tmp_path, layout):
    official, own = tmp_path / "w.pth", tmp_path / "w.safetensors"
    done = kbnet_("convert", tiny, official, *(["--layout", layout] if layout else []))
    assert (done.code, done.out) == (0, b"")
    assert str(official) in done.err
    content = torch.load(official, weights_only=True)
    assert list(content) == [layout or "model"]
    assert kbnet_("convert", official, own).code == 0
    before, after = load_model(tiny), load_model(own)
    assert before.config == after.config
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    again = kbnet_("convert", official, own)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert kbnet_("convert", official, own, "--overwrite").code == 0


def test_convert_to_half_the_size(kbnet_, tiny, tmp_path):
    half = tmp_path / "half.safetensors"
    assert kbnet_("convert", tiny, half, "--dtype", "float16").code == 0
    assert half.stat().st_size < 0.7 * tiny.stat().st_size
    before, after = load_model(tiny), load_model(half)
    assert all(torch.equal(a.half().float(), b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    refused = kbnet_("convert", tiny, tmp_path / "half.pth", "--dtype", "float16")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_help_and_version_load_no_torch():
    # the package's own __init__ is left out: what is tested is the command line's
    code = """
import sys, types
package = types.ModuleType("kbnet")
package.__path__ = [sys.argv.pop()]
sys.modules["kbnet"] = package
from kbnet.cli import main
codes = [main([]), main(["restore", "--help"])]
heavy = {"torch", "numpy", "pyvips"} & set(sys.modules)
assert (codes, heavy) == ([0, 0], set()), (codes, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(SOURCE / "kbnet")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: kbnet restore" in done.stdout


def test_version(kbnet_):
    assert kbnet_("--version").out.startswith(b"kbnet 0.")
