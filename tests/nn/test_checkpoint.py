"""Weights files that are what they should be: settings told from tensors, names translated, nothing lost either way."""

import ast
import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from kbnet.errors import CheckpointError, InvalidInputError, OutputError, OutputExistsError
from kbnet.models import (
    PRESETS,
    KBNetLConfig,
    KBNetSConfig,
    build,
    create_model,
    load_file,
    matching_presets,
    save_file,
    save_official,
)
from kbnet.models.official_keys import from_official, to_official
from kbnet.nn.checkpoint import infer_config

FIXTURES = {
    "kbnet_s_color": KBNetSConfig(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1)),
    "kbnet_s_gray": KBNetSConfig(channels=1, width=8, encoder_blocks=(1, 2), middle_blocks=2, decoder_blocks=(2, 1)),
    "kbnet_s_light": KBNetSConfig(
        width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), lightweight=True, ffn_scale=1.5
    ),
    "kbnet_l": KBNetLConfig(width=12, blocks=(1, 1, 1, 1), refinement_blocks=1),
}
OFFICIAL_PRESETS = {
    "kbnet-s-gaussian-color": "kbnet_s_gaussian_color",
    "kbnet-s-real": "kbnet_s_sidd",
    "kbnet-l-derain": "kbnet_l",
    "kbnet-l-defocus": "kbnet_l",
}
SMALL = {
    "kbnet-s": KBNetSConfig(width=4, encoder_blocks=(1, 0), middle_blocks=1, decoder_blocks=(0, 2), bases=3),
    "kbnet-s of other settings": KBNetSConfig(
        channels=1, width=6, encoder_blocks=(1,), middle_blocks=0, decoder_blocks=(1,), ffn_scale=3.0, lightweight=True,
        bases=2, group_channels=2, kernel_size=5, coefficient_limit=4,
    ),
    "kbnet-l": KBNetLConfig(width=8, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4), bases=3),
    "kbnet-l with biases": KBNetLConfig(
        width=8, blocks=(1, 1, 1, 1), refinement_blocks=2, heads=(1, 1, 1, 1), bases=3, bias=True, expansion=1.0
    ),
}  # fmt: skip


def assert_same_network(a, b):
    assert a.config == b.config
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.mark.parametrize("name", FIXTURES)
def test_the_settings_of_an_authors_file_are_told_from_its_tensors(name, official):
    assert load_file(official / f"{name}.pth").config == FIXTURES[name]


def test_the_fixtures_hold_all_three_layouts(official):
    layouts = {next(iter(torch.load(official / f"{name}.pth", weights_only=True))) for name in FIXTURES}
    assert layouts == {"net", "model", "params"}


def test_a_file_of_the_tensors_alone_is_read_too(official, tmp_path):
    tensors = torch.load(official / "kbnet_s_light.pth", weights_only=True)["model"]
    torch.save(tensors, tmp_path / "bare.pth")
    assert_same_network(load_file(tmp_path / "bare.pth"), load_file(official / "kbnet_s_light.pth"))


def test_a_file_in_torchs_older_format_is_read_too(official, tmp_path):
    content = torch.load(official / "kbnet_s_light.pth", weights_only=True)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same_network(load_file(tmp_path / "old.pth"), load_file(official / "kbnet_s_light.pth"))


def official_shapes(official, name):
    lines = (official / f"{name}.keys.txt").read_text().splitlines()
    return {key: ast.literal_eval(shape) for key, shape in (line.split("\t") for line in lines)}


def shapes_under_the_authors_names(config):
    with torch.device("meta"):
        network = build(config)
    return {key: tuple(t.shape) for key, t in to_official(network.family, network.state_dict()).items()}


@pytest.mark.parametrize(("preset", "keys"), OFFICIAL_PRESETS.items())
def test_a_preset_has_the_names_and_shapes_of_the_published_file(preset, keys, official):
    assert shapes_under_the_authors_names(PRESETS[preset]) == official_shapes(official, keys)


def test_the_gray_preset_differs_from_the_colour_one_in_its_first_and_last_layer_alone(official):
    gray = shapes_under_the_authors_names(PRESETS["kbnet-s-gaussian-gray"])
    colour = official_shapes(official, "kbnet_s_gaussian_color")
    assert {key for key in colour if gray.pop(key) != colour[key]} == {"intro.weight", "ending.weight", "ending.bias"}
    assert gray == {}


@pytest.mark.parametrize("preset", [*OFFICIAL_PRESETS, "kbnet-s-gaussian-gray"])
def test_the_settings_of_a_published_file_are_told_from_its_shapes(preset):
    with torch.device("meta"):  # shapes without values
        network = build(PRESETS[preset])
    theirs = to_official(network.family, network.state_dict())
    config = infer_config(network.family, from_official(network.family, theirs))
    assert config == PRESETS[preset]
    assert preset in matching_presets(config)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_translating_to_the_authors_names_and_back_changes_nothing(config):
    network = build(config)
    tensors = network.state_dict()
    there = to_official(network.family, tensors)
    assert len(there) == len(tensors)
    back = from_official(network.family, there)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", FIXTURES)
def test_translating_from_the_authors_names_and_back_changes_nothing(name, official):
    ((_, tensors),) = torch.load(official / f"{name}.pth", weights_only=True).items()
    tensors = {key.removeprefix("module."): t for key, t in tensors.items()}
    family = "kbnet-l" if name == "kbnet_l" else "kbnet-s"
    back = to_official(family, from_official(family, tensors))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_our_own_file_gives_the_network_back(config, tmp_path):
    network = build(config)
    save_file(network, tmp_path / "own.safetensors")
    loaded = load_file(tmp_path / "own.safetensors")
    assert_same_network(loaded, network)
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())


def test_our_own_file_carries_its_settings_in_the_header(tmp_path):
    save_file(build(SMALL["kbnet-s"]), tmp_path / "own.safetensors")
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        header = file.metadata()
    assert header["family"] == "kbnet-s"
    assert json.loads(header["settings"])["encoder_blocks"] == [1, 0]


def test_a_file_keeps_float64_and_widens_half_precisions_to_float32(tmp_path):
    network = build(SMALL["kbnet-s"])
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        path = tmp_path / f"{dtype}.safetensors"
        save_file(network.to(dtype), path)
        assert {p.dtype for p in load_file(path).parameters()} == {expected}


def test_weights_are_stored_in_half_precision_on_request(tmp_path):
    network = build(SMALL["kbnet-s"])
    for dtype in (torch.float16, torch.bfloat16):
        save_file(network, tmp_path / f"{dtype}.safetensors", dtype=dtype)
        loaded = load_file(tmp_path / f"{dtype}.safetensors")
        for name, parameter in network.named_parameters():
            assert torch.equal(loaded.get_parameter(name), parameter.to(dtype).float()), name
    assert next(network.parameters()).dtype == torch.float32
    with torch.no_grad():
        network.first.bias[0] = 1e6
    with pytest.raises(InvalidInputError, match=r"first\.bias is out of the range of torch\.float16"):
        save_file(network, tmp_path / "large.safetensors", dtype=torch.float16)
    assert not (tmp_path / "large.safetensors").exists()


def test_a_network_in_channels_last_memory_is_saved_like_any_other(tmp_path):
    network = build(SMALL["kbnet-s"]).to(memory_format=torch.channels_last)
    save_file(network, tmp_path / "own.safetensors")
    assert_same_network(load_file(tmp_path / "own.safetensors"), network)


@pytest.mark.parametrize("layout", ["net", "model", "params"])
@pytest.mark.parametrize("config", [SMALL["kbnet-s"], SMALL["kbnet-l"]], ids=["kbnet-s", "kbnet-l"])
def test_the_authors_kind_of_file_is_plain_tensors_under_their_names(config, layout, tmp_path):
    network, path = build(config), tmp_path / "theirs.pth"
    save_official(network, path, layout)
    content = torch.load(path, weights_only=True)
    assert list(content) == [layout]
    assert all(key.startswith("module.") == (layout == "net") for key in content[layout])
    expected = to_official(network.family, network.state_dict())
    stripped = {key.removeprefix("module."): t for key, t in content[layout].items()}
    assert stripped.keys() == expected.keys()
    assert all(torch.equal(stripped[key], expected[key]) for key in expected)
    assert_same_network(load_file(path), network)


@pytest.mark.parametrize("name", FIXTURES)
def test_converting_an_authors_file_to_ours_and_back_gives_their_tensors(name, official, tmp_path):
    ((layout, tensors),) = torch.load(official / f"{name}.pth", weights_only=True).items()
    save_file(load_file(official / f"{name}.pth"), tmp_path / "ours.safetensors")
    save_official(load_file(tmp_path / "ours.safetensors"), tmp_path / "theirs.pth", layout)
    again = torch.load(tmp_path / "theirs.pth", weights_only=True)[layout]
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 36, "kernel_size": 1, "group_channels": 36}, "group_channels 4 instead of 36, kernel_size 3 inst"),
        ({"coefficient_limit": 2}, "coefficient_limit 32 instead of 2"),
        ({"middle_blocks": 0, "encoder_blocks": (0, 1)}, "settings can't be inferred from its tensors"),
        ({"ffn_scale": 2.05}, r"ffn_scale 2\.0 instead of 2\.05"),
    ],
    ids=str,
)
def test_a_network_that_would_read_back_as_another_is_not_written(settings, words, tmp_path):
    network = build(replace(SMALL["kbnet-s"], **settings))
    with pytest.raises(InvalidInputError, match=words):
        save_official(network, tmp_path / "theirs.pth", "net")
    assert list(tmp_path.iterdir()) == []
    save_file(network, tmp_path / "ours.safetensors")
    assert_same_network(load_file(tmp_path / "ours.safetensors"), network)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((torch.float16, torch.float32), torch.float32),
        ((torch.bfloat16, torch.float16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
        ((torch.float16, torch.float64), torch.float64),
    ],
    ids=str,
)
def test_a_file_of_several_dtypes_becomes_a_network_of_one_that_runs(dtypes, expected, tmp_path):
    network = build(SMALL["kbnet-s"])
    for number, parameter in enumerate(network.parameters()):
        parameter.data = parameter.data.to(dtypes[number % 2])
    save_file(network, tmp_path / "mixed.safetensors")
    loaded = load_file(tmp_path / "mixed.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {expected}
    for name, parameter in network.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.to(expected))
    assert loaded(torch.rand(1, 3, 8, 8)).isfinite().all()


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"expected a layout \(net, model, params\), got 'state_dict'"):
        save_official(build(SMALL["kbnet-s"]), tmp_path / "theirs.pth", "state_dict")


def savers():
    return {"ours": save_file, "theirs": lambda n, p, **k: save_official(n, p, "net", **k)}


@pytest.mark.parametrize("kind", savers())
def test_a_file_that_is_there_is_overwritten_only_when_asked(kind, tmp_path):
    save, path, network = savers()[kind], tmp_path / "weights", build(SMALL["kbnet-s"])
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="weights: the file exists"):
        save(network, path)
    assert path.read_text() == "mine"
    save(network, path, overwrite=True)
    assert_same_network(load_file(path), network)
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize("kind", savers())
def test_a_file_that_cannot_be_written_leaves_nothing_behind(kind, tmp_path):
    with pytest.raises(OutputError, match="its folder does not exist"):
        savers()[kind](build(SMALL["kbnet-s"]), tmp_path / "no such folder" / "weights")
    (tmp_path / "weights").mkdir()
    with pytest.raises(OutputError, match="got a folder or device"):
        savers()[kind](build(SMALL["kbnet-s"]), tmp_path / "weights", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pth: No such file"):
        load_file(tmp_path / "gone.pth")


def test_overrides_of_a_preset_are_checked():
    with pytest.raises(InvalidInputError, match="kbnet-nano has no setting depth"):
        create_model("kbnet-nano", depth=3)
    with pytest.raises(InvalidInputError, match="expected width"):
        create_model("kbnet-nano", width=10**9)
