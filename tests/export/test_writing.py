"""What is written, what is refused, and what an exported file says of itself."""

import json
import sys

import numpy as np
import pytest
import torch
from graph_files import image, small

from kbnet import __version__, files
from kbnet.errors import (
    CheckpointError,
    ExportError,
    InvalidInputError,
    MissingExtraError,
    OutputError,
    OutputExistsError,
)
from kbnet.export import export_model, graph_facts, write
from kbnet.export.layers import Layers
from kbnet.inference import Restorer
from kbnet.inference.runners.graphs import GraphFacts
from kbnet.inference.runners.runtimes import open_exported
from kbnet.models import create_model


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_facts_come_back_from_the_file(tmp_path, runtime):
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    facts = graph_facts(network, name="mine", task="denoise", license='CC0 "quoted"', weights_sha256="ab", pooled=True)
    path = tmp_path / ("g.onnx" if runtime == "onnx" else "g.xml")
    assert export_model(network, path, facts, format=runtime) < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == (["g.onnx"] if runtime == "onnx" else ["g.bin", "g.xml"])
    found = open_exported(path).facts
    assert (found.name, found.task, found.license, found.weights_sha256) == ("mine", "denoise", 'CC0 "quoted"', "ab")
    assert (found.pooled, found.window, found.tile, found.kbnet_version) == (True, 0, 0, __version__)
    assert found.config() == network.config
    assert [len(shape) for shape in found.sites] == [4] * 3
    assert Restorer.from_pretrained(path).context == "global"


def test_a_preset_is_named_and_unknown_settings_are_not():
    network = create_model("kbnet-nano-gray")
    assert graph_facts(network).preset == "kbnet-nano-gray"
    assert graph_facts(create_model("kbnet-nano", width=8)).preset == ""


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_that_differs_is_not_written_and_leaves_an_older_file_alone(tmp_path, monkeypatch, runtime):
    network = small("s")
    path = tmp_path / ("g.onnx" if runtime == "onnx" else "g.xml")
    path.write_bytes(b"old")
    right = Layers.scaled
    monkeypatch.setattr(Layers, "scaled", lambda self, x, scale, name: right(self, x, scale * 1.01, name))
    with pytest.raises(
        ExportError, match=r"differs from PyTorch by .* for 48 x 64 \(limit 0.0001\), so nothing was written"
    ):
        export_model(network, path, graph_facts(network), format=runtime, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_an_average_that_differs_is_noticed(tmp_path, monkeypatch):
    from kbnet.export.pooling import PooledInput

    network, right = small("s"), PooledInput.share
    monkeypatch.setattr(
        PooledInput, "share", lambda self, mean, shape: right(self, self.b.node("Mul", mean, self.b.floats(1.1)), shape)
    )
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_model(network, tmp_path / "g.onnx", graph_facts(network, pooled=True))


@pytest.mark.parametrize(("runtime", "name"), [("onnx", "g.onnx"), ("openvino", "g.xml"), ("torch-export", "g.pt2")])
def test_a_full_disk_is_one_line_about_the_output_and_leaves_nothing(tmp_path, file_size_limit, runtime, name):
    network = small("s")
    facts = graph_facts(network)
    with file_size_limit(2000), pytest.raises(OutputError, match=rf"{name}: can't be written") as told:
        export_model(network, tmp_path / name, facts, format=runtime)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_for_openvino_alone_is_told_too(tmp_path, file_size_limit, monkeypatch):
    save = write._save_openvino

    def limited(*args):
        with file_size_limit(2000):
            save(*args)

    monkeypatch.setattr(write, "_save_openvino", limited)
    network = small("s")
    with pytest.raises(OutputError, match=r"g\.xml: can't be written"):
        export_model(network, tmp_path / "g.xml", graph_facts(network), format="openvino")
    assert list(tmp_path.iterdir()) == []


def test_what_appears_while_a_pair_is_placed_is_kept_and_no_half_is_left(tmp_path, monkeypatch):
    def compare(*_):
        (tmp_path / "g.xml").write_bytes(b"precious")
        return 0.0

    monkeypatch.setattr("kbnet.export.write.compare", compare)
    network = small("s")
    with pytest.raises(OutputExistsError, match=r"g\.xml: the file exists"):
        export_model(network, tmp_path / "g.xml", graph_facts(network), format="openvino")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("g.xml", b"precious")]


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    network = small("s")
    (tmp_path / "g.bin").write_bytes(b"old")
    with pytest.raises(OutputExistsError, match=r"g\.bin: the file exists"):
        export_model(network, tmp_path / "g.xml", graph_facts(network), format="openvino")


@pytest.mark.parametrize("stop_before", ["new.bin", "new.xml"])
def test_a_pair_that_is_replaced_is_at_no_moment_of_two_exports(tmp_path, monkeypatch, stop_before):
    """As after a kill: what the program would clean up is not."""

    class Kill(BaseException):
        pass

    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("new.xml", "new.bin"):
        (tmp_path / name).write_bytes(b"old")
        (folder / name).write_bytes(b"new")
    seen, place, put_back = [], files.place, []

    def killed(source, target, *, overwrite):
        seen.append({path.name: path.read_bytes() for path in tmp_path.glob("new.*")})
        if target.name == stop_before:
            raise Kill
        place(source, target, overwrite=overwrite)

    monkeypatch.setattr(files, "place", killed)
    monkeypatch.setattr(files, "write", lambda data, path: put_back.append((path.name, data)))
    with pytest.raises(Kill):
        write._place_pair(folder, tmp_path / "new.xml", overwrite=True)
    seen.append({path.name: path.read_bytes() for path in tmp_path.glob("new.*")})
    assert all("new.xml" not in pair for pair in seen)
    assert put_back == ([("new.xml", b"old")] if stop_before == "new.bin" else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 64, "pooled": True}, "can't be shared"),
        ({"pooled": True, "tile": 64}, "without --uint8 and --tile"),
        ({"pooled": True, "uint8": True}, "without --uint8 and --tile"),
        ({"tile": 72}, "expected a tile size that is a multiple of 16 and at least 64, got 72"),
        ({"tile": 48}, "expected a tile size that is a multiple of 16 and at least 64, got 48"),
        ({"window": 200}, "can't export a window of 200 pixels"),
        ({"window": 60}, "can't export a window of 60 pixels"),
        ({"dtype": "bfloat16"}, "onnx files hold float32"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, options, message):
    network = small("s")
    with pytest.raises(InvalidInputError, match=message):
        export_model(network, tmp_path / "g.onnx", graph_facts(network, **options))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_offers_its_own_contexts_alone(graph):
    plain, local = graph("s"), graph("nano", window=64)
    assert Restorer.from_pretrained(plain).context == "tile"
    with pytest.raises(InvalidInputError, match=r"supports \(tile\), got 'global'; export one with --context"):
        Restorer.from_pretrained(plain, context="global")
    with pytest.raises(InvalidInputError, match=r"supports \(local\), got 'tile'$"):
        Restorer.from_pretrained(local, context="tile")
    with pytest.raises(InvalidInputError, match="only on the CPU"):
        Restorer.from_pretrained(plain, device="meta")
    with pytest.raises(InvalidInputError, match="these networks only in float32"):
        Restorer.from_pretrained(plain, dtype="bfloat16")


def test_files_that_are_not_ours_are_refused(tmp_path, graph):
    import onnx

    for name in ("a.onnx", "a.xml"):
        with pytest.raises(CheckpointError, match="found no file"):
            open_exported(tmp_path / name)
        (tmp_path / name).write_bytes(b"not a graph")
        with pytest.raises(CheckpointError, match=f"{name} can't be opened"):
            open_exported(tmp_path / name)
    model = onnx.load(str(graph("s")))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(CheckpointError, match="expected a graph that `kbnet export` wrote"):
        open_exported(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("key", "value"),
    [("kbnet.window", "-1.5"), ("kbnet.settings", "[]"), ("kbnet.sites", "[[1, null]]"), ("kbnet.family", "other")],
)
def test_damaged_facts_are_refused(key, value):
    strings = graph_facts(create_model("kbnet-nano")).to_strings()
    assert GraphFacts.from_strings(strings, "x").family == "kbnet-s"
    with pytest.raises(CheckpointError, match="metadata is missing or damaged"):
        GraphFacts.from_strings(strings | {key: value}, "x")


@pytest.mark.parametrize(("package", "name"), [("onnxruntime", "g.onnx"), ("openvino", "g.xml")])
def test_a_missing_runtime_says_what_to_install(tmp_path, monkeypatch, package, name):
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[runtimes\]'"):
        open_exported(tmp_path / name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_torch_program_equals_the_network(tmp_path, dtype):
    torch.manual_seed(0)
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    network.eval()
    path = tmp_path / "g.pt2"
    export_model(network, path, graph_facts(network, tile=64, dtype=dtype), format="torch-export")
    extra = {"kbnet.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert GraphFacts.from_strings(json.loads(extra["kbnet.json"]), "x").dtype == dtype
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names
    assert not any("kbnet" in name for name in names)  # standard operators alone
    x = image(1, 3, 64, 64)
    with torch.inference_mode():
        found, expected = program.module()(x, None), network(x)
    np.testing.assert_allclose(found.float().numpy(), expected.numpy(), atol=1e-4 if dtype == "float32" else 3e-2)
    with pytest.raises(InvalidInputError, match="average over the whole input"):
        export_model(network, tmp_path / "h.pt2", graph_facts(network, window=64), format="torch-export")
