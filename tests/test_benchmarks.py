"""The benchmarks run, and write what their pictures are drawn from. No figure is judged here but its arithmetic."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import kbnet
from kbnet.evaluation.costs import NetworkCost
from kbnet.imaging import Photo, write_photo
from kbnet.ops import available_backends, multiply_adds

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SETS = ("KBNet-S", "KBNet-L", "kbnet-nano", "bases", "group channels")
PASSES = {"forward": 1, "backward": 3, "forward and backward": 4}
DTYPES = ("float32", "bfloat16")


def run(script, *arguments):
    package = str(Path(kbnet.__file__).parents[1])
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder with the results of a quick sweep."""
    folder = tmp_path_factory.mktemp("results") / "new"
    child = run("operator_sweep.py", "--quick", "--results", folder)
    if "native" not in available_backends():
        assert child.returncode == 1
        assert "nothing to measure: the native backend is not available" in child.stderr
        pytest.skip("the sweep needs the native backend")
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    return folder


@pytest.fixture(scope="module")
def sweep(results):
    return json.loads((results / "operator.json").read_text())


def test_the_sweep_has_a_row_for_every_size_pass_and_dtype(sweep, results):
    assert sweep["facts"]["command"] == f"python benchmarks/operator_sweep.py --quick --results {results.name}"
    found = [(row["set"], row["pass"], row["dtype"]) for row in sweep["rows"]]
    assert found == list(product(SETS, PASSES, DTYPES))


def test_figures_of_the_sweep_follow_from_its_seconds(sweep):
    for row in sweep["rows"]:
        a_pixel = multiply_adds(row["channels"], row["bases"], row["group_channels"], sweep["kernel_size"])
        gflop = 2e-9 * a_pixel * row["side"] ** 2 * PASSES[row["pass"]]
        assert row["gflop"] == pytest.approx(gflop, rel=1e-3)
        for timed in (found for found in row["runs"].values() if "seconds" in found):
            assert timed["gflops"] == pytest.approx(gflop / timed["seconds"], rel=2e-3)
            assert timed["share_of_matmul"] == pytest.approx(timed["gflops"] / row["matmul_gflops"], rel=2e-3)
            assert timed["extra_megabytes"] is None or timed["extra_megabytes"] < 256


def test_speed_ups_are_told_where_both_were_timed_and_agree(sweep):
    for row in sweep["rows"]:
        ours, published = row["runs"]["native"], row["runs"].get("published formula", {})
        assert ("speed_up_over_published" in ours) == (row["dtype"] == "float32" and row["pass"] != "backward")
        if "speed_up_over_published" in ours:
            assert ours["speed_up_over_published"] == pytest.approx(published["seconds"] / ours["seconds"], rel=1e-3)
        assert ours["difference"] <= (1e-4 if row["dtype"] == "float32" else 2e-2)
        assert ("speed_up_over_float32" in ours) == (row["dtype"] == "bfloat16")


def test_results_that_disagree_end_the_sweep():
    code = """
import operator_sweep as sweep
right = sweep.run
def run(name, implementation, *tensors):
    call = right(name, implementation, *tensors)
    if implementation == "native" and name == "backward":
        return lambda: tuple(t * 1.01 for t in call())
    return call
sweep.run = run
list(sweep.measure(sweep.Size("KBNet-S", 8, 16, 4), "cpu", 64))
"""
    if "native" not in available_backends():
        pytest.skip("the sweep needs the native backend")
    package = str(Path(kbnet.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([package, str(BENCHMARKS)])}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert child.returncode == 1
    assert "native: gradient of x: results differ by 0.01 of the largest value, allowed 0.0001" in child.stderr


def test_a_forced_backend_leaves_no_block_to_the_native_kernels():
    code = """
import sys, torch
from torch.utils._python_dispatch import TorchDispatchMode
from baselines import operator
from kbnet.models import create_model

class Recorder(TorchDispatchMode):
    seen = set()
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(str(function))
        return function(*args, **(kwargs or {}))

network, x = create_model("kbnet-nano", width=8), torch.rand(1, 3, 16, 16)
for backend in sys.argv[1:]:
    Recorder.seen.clear()
    with operator(backend, fused=backend == "native"), Recorder():
        network(x)
    print(backend, *sorted(name for name in Recorder.seen if name.startswith("kbnet")))
"""
    if "native" not in available_backends():
        pytest.skip("there is no other backend")
    package = str(Path(kbnet.__file__).parents[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([package, str(BENCHMARKS)])}
    child = subprocess.run(
        [sys.executable, "-c", code, "native", "reference"], capture_output=True, text=True, env=environment
    )
    native, reference = child.stdout.splitlines()
    assert native == "native kbnet.feed_forward.default kbnet.fusion.default"
    assert reference == "reference kbnet.kernel_basis_attention.default"


def test_pictures_are_drawn_of_what_there_is(results, tmp_path):
    child = run("plot.py", "--results", results, "--output", tmp_path)
    assert (child.returncode, child.stderr) == (0, "")
    assert "network-speed.png skipped: there is no networks.json" in child.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["operator-speed.png"]
    assert (tmp_path / "operator-speed.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_networks_needs_no_run_that_was_left_out(tmp_path):
    runs = {
        "float32": {"seconds": 1.0, "activation_megabytes": 100.0},
        "bfloat16": {"seconds": 0.5, "activation_megabytes": None},
    }
    step = {"native": {"seconds": 3.0, "activation_megabytes": 300.0}}
    rows = [
        {"network": "kbnet-nano", "what": "forward", "shape": [1, 3, 256, 256], "runs": runs},
        {"network": "kbnet-nano", "what": "training step", "shape": [16, 3, 64, 64], "runs": step},
    ]
    facts = {"processor": "a processor", "threads": 2, "torch": "2.9"}
    (tmp_path / "networks.json").write_text(json.dumps({"facts": facts, "rows": rows}))
    child = run("plot.py", "--results", tmp_path, "--output", tmp_path / "pictures")
    assert (child.returncode, child.stderr) == (0, "")
    assert (tmp_path / "pictures" / "network-speed.png").read_bytes().startswith(b"\x89PNG")


def test_learning_curves_and_the_sweep_are_drawn_and_the_table_written(tmp_path):
    entries = [{"step": s, "loss": 1 / s, "grad_norm": 1.0, "lr": 0.1} for s in range(1, 251)]
    entries += [{"step": s, "psnr": {"sigma 15": 30.0 + s / 100}, "input_psnr": {"sigma 15": 25.0}} for s in (125, 250)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    row = {"macs_per_pixel": 58_400, "steps": 200, "psnr": {"sigma 15": 30.0}}
    rows = [{"variant": "plain", "mean_psnr": 30.0} | row, {"variant": "better", "mean_psnr": 31.0} | row]
    sweep = {"recipe": "x.toml", "budget": "2 minutes", "rows": rows}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    (tmp_path / "training.md").write_text("before\n<!-- sweep -->\nold\n<!-- end of sweep -->\nafter\n")
    child = run("curves.py", "--run", f"mine={tmp_path / 'run'}", "--results", tmp_path, "--output", tmp_path)
    assert (child.returncode, child.stderr) == (0, "")
    curve = json.loads((tmp_path / "learning-curves.json").read_text())["runs"]["mine"]
    assert len(curve["loss"]) == 84  # of 3 steps each
    assert curve["loss"][0] == [3, pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-6)]
    assert curve["psnr"] == [[125, {"sigma 15": 31.25}], [250, {"sigma 15": 32.5}]]
    assert curve["input_psnr"] == {"sigma 15": 25.0}
    for name in ("learning-curves.png", "sweep.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    before, _, head, _, better, plain, _, after = (tmp_path / "training.md").read_text().splitlines()
    assert head == "| variant | kMACs per pixel | steps | sigma 15 | mean |"
    assert (before, after) == ("before", "after")
    assert better == "| better | 58.4 | 200 | 30.00 | 31.00 |"
    assert plain == "| plain | 58.4 | 200 | 30.00 | 30.00 |"


def test_costs_are_written_as_a_table(tmp_path):
    child = run("costs.py", "--networks", "kbnet-nano", "FFDNet, colour", "--results", tmp_path, "--output", tmp_path)
    assert (child.returncode, child.stderr) == (0, "")
    results = json.loads((tmp_path / "costs.json").read_text())
    assert [row["network"] for row in results["networks"]] == ["kbnet-nano", "FFDNet, colour"]
    document = (tmp_path / "costs.md").read_text()
    assert "| kbnet-nano | 2.36 | 2.04 | 1.78 | – | **3.82** | – |" in document
    assert "| FFDNet, colour (arXiv 1710.04026) | 0.85 | 13.9 | – | – | **13.9** | – |" in document


def test_the_document_of_costs_is_that_of_the_results():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from costs import markdown
    finally:
        sys.path.remove(str(BENCHMARKS))
    rows = json.loads((BENCHMARKS / "results" / "costs.json").read_text())["networks"]
    assert (BENCHMARKS.parent / "docs" / "costs.md").read_text() == markdown([NetworkCost(**row) for row in rows])


def test_methods_are_compared(tmp_path):
    folder = tmp_path / "three"
    folder.mkdir()
    for number in range(3):
        write_photo(Photo(np.full((24, 24 + number), 90, np.uint8)), folder / f"{number}.png")
    where = ("--results", tmp_path / "peers.json", "--plot", tmp_path / "peers.png")
    chosen = ("--sigma", 25, "--models", "--peers", "total-variation", "--limit", 2)
    child = run("peers.py", "--data", folder, *chosen, *where)
    assert (child.returncode, child.stderr) == (0, "")
    results = json.loads((tmp_path / "peers.json").read_text())
    assert results["facts"]["command"].startswith("python benchmarks/peers.py --data three --sigma 25 --models --peers")
    assert [(row["set"], row["image"]) for row in results["rows"]] == [("three", "0.png"), ("three", "1.png")]
    assert [row["images"] for row in results["summary"]] == [2]
    assert "total variation" in child.stdout
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_twenty_clients_get_their_own_replies_and_none_is_lost(tmp_path):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    child = run("load.py", "--seconds", 10, "--results", tmp_path)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["wrong or lost"] == []
    assert found["unanswered"] == 0
    assert found["clients that got replies"] > 1
    assert found["rejected with 429"] > 0


@pytest.mark.slow
def test_an_honest_client_is_served_beside_hostile_ones_and_the_server_ends(tmp_path):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    child = run("hostile_clients.py", "--clients", 22, "--seconds", 2, "--results", tmp_path)
    found = json.loads((tmp_path / "hostile_clients.json").read_text())  # its own verdict is about times
    assert found["wrong, lost or refused"] == [], child.stdout
    assert found["replies to the honest client"]["200"] > 4
    assert found["hostile clients"] == 22
    assert found["exit code"] == 143
    assert found["tracebacks in the log"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batches", "folders"])
def test_benchmarks_of_many_pictures_run(name, tmp_path):
    child = run(f"{name}.py", "--quick", "--results", tmp_path)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    assert len(json.loads((tmp_path / f"{name}.json").read_text())["rows"]) == 2


@pytest.mark.slow
def test_exported_graphs_are_compared_before_they_are_timed(tmp_path):
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    child = run("export.py", "--quick", "--results", tmp_path)
    assert child.returncode == 0, child.stderr
    found = json.loads((tmp_path / "export.json").read_text())
    assert len({row["what"] for row in found["operator"]}) == 1 + 2 * 5
    (nano,) = found["networks"]
    assert set(nano["milliseconds"]) == {"torch", "onnxruntime", "openvino"}
    assert len(nano["differences"]) == 2 * 3
    assert max(nano["differences"].values()) < 1e-4


@pytest.mark.slow
def test_runs_are_killed_and_end_as_if_they_were_not(tmp_path):
    child = run("kills.py", "--kills", 1, "--only", "folder", "--results", tmp_path)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    (row,) = json.loads((tmp_path / "kills.json").read_text())["rows"].values()
    assert row["kills"] >= 1
    assert row["wrong"] == []


@pytest.mark.slow
def test_the_engine_is_compared_before_it_is_timed(tmp_path):
    child = run("engine.py", "--quick", "--results", tmp_path)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    network, *operators = json.loads((tmp_path / "engine.json").read_text())["rows"]
    assert {"this", "this, avx2", "ONNX Runtime", "OpenVINO"} <= set(network["contestants"])
    assert [set(row["contestants"]) for row in operators] == [{"this"}] * 3
    assert all(figures["seconds"] > 0 for row in (network, *operators) for figures in row["contestants"].values())


@pytest.mark.slow
def test_a_library_that_is_killed_and_repeated_is_accounted_for(tmp_path):
    child = run("library.py", "--files", "60", "--kills", "1", "--results", tmp_path)
    found = json.loads((tmp_path / "library.json").read_text())
    assert found["problems"] == []
    assert child.returncode == 0
    assert [one["ended"] for one in found["runs"]] == [-9, 1]  # the damaged file fails
    assert found["restored_twice"] <= 3


def test_the_whole_command_is_measured_in_processes_of_its_own(tmp_path):
    child = run("commands.py", "--quick", "--python", f"same={sys.executable}", "--results", tmp_path)
    assert (child.returncode, child.stderr) == (0, ""), child.stdout
    found = json.loads((tmp_path / "commands.json").read_text())
    assert {row["environment"] for row in found["rows"]} == {"this", "same"} == set(found["environments"])
    restored = [row for row in found["rows"] if row["what"].startswith("kbnet restore")]
    assert len(restored) == 4
    assert all(row["seconds"] > 0 and row["peak_megabytes"] > 20 for row in restored)
