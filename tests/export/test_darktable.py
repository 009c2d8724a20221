"""Packages for darktable: their layout, manifest and graph, and the networks that are refused."""

import json
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph_files import small

from kbnet import __version__
from kbnet.errors import InvalidInputError, OutputExistsError
from kbnet.export import export_darktable, graph_facts
from kbnet.export.darktable import SIDE
from kbnet.models import create_model
from kbnet.nn import Local


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "denoise.dtmodel"
    network = small("s")
    facts = graph_facts(network, name="kbnet-nano-denoise", task="denoise", license="CC0", window=128, tile=SIDE)
    assert export_darktable(network, path, facts) < 1e-4
    return path, network


def test_a_package_holds_one_folder_with_a_manifest_and_a_graph(package):
    path, _ = package
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["denoise-kbnet-nano/config.json", "denoise-kbnet-nano/model.onnx"]
        config = json.loads(archive.read("denoise-kbnet-nano/config.json"))
    # the fields that darktable's src/ai/README.md and darktable-ai's validate.py require
    assert {key: config[key] for key in ("id", "task", "backend", "version")} == {
        "id": "denoise-kbnet-nano",
        "task": "denoise",
        "backend": "onnx",
        "version": "1.0",
    }
    assert all(config[key] for key in ("name", "description"))
    assert config["attributes"] == {"input_sizes": [768]}
    assert (config["license"], config["kbnet_version"]) == ("CC0", __version__)


def test_the_graph_has_darktables_names_and_a_fixed_size_and_restores_like_the_network(package):
    path, network = package
    with zipfile.ZipFile(path) as archive:
        graph = archive.read("denoise-kbnet-nano/model.onnx")
    assert [version.version <= 20 for version in onnx.load_from_string(graph).opset_import] == [True]
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    for tensor, name in ((given, "input"), (returned, "output")):
        assert (tensor.name, tensor.shape, tensor.type) == (name, [1, 3, 768, 768], "tensor(float)")
    image = torch.rand(1, 3, 768, 768, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(image, Local(128)).numpy()
    (found,) = session.run(None, {"input": image.numpy()})
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"task": "derain"}, "a.dtmodel", "only supports denoising models, got one for derain"),
        ({}, "a.onnx", "expected a name ending in .dtmodel"),
        ({"tile": 512}, "a.dtmodel", "tiles of 768 x 768 pixels"),
        ({"uint8": True}, "a.dtmodel", "needs float32 tiles"),
    ],
    ids=str,
)
def test_what_does_not_suit_darktable_is_refused(tmp_path, options, name, message):
    network = small("s")
    facts = graph_facts(network, **{"task": "denoise", "tile": SIDE} | options)
    with pytest.raises(InvalidInputError, match=message):
        export_darktable(network, tmp_path / name, facts)
    assert list(tmp_path.iterdir()) == []


def test_gray_weights_are_refused(tmp_path):
    network = create_model("kbnet-nano-gray", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1)
    with pytest.raises(InvalidInputError, match="got one with 1 channel"):
        export_darktable(network, tmp_path / "a.dtmodel", graph_facts(network, tile=SIDE))


def test_an_older_package_is_kept(tmp_path, package):
    path, network = tmp_path / "a.dtmodel", package[1]
    path.write_bytes(b"older")
    with pytest.raises(OutputExistsError):
        export_darktable(network, path, graph_facts(network, task="denoise", tile=SIDE))
    assert path.read_bytes() == b"older"
