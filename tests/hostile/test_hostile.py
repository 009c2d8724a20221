"""Malformed files of every kind end in a result or in one clear line. benchmarks/hostile.py has the long run."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kbnet
from kbnet.errors import CheckpointError, ImageError
from kbnet.imaging import read_photo
from kbnet.models import load_model

sys.path.insert(0, str(Path(__file__).parent))
import corpus

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "hostile.py"


@pytest.mark.slow
def test_two_hundred_malformed_files_through_folders_server_and_loader(tmp_path):
    pytest.importorskip("fastapi")
    child = subprocess.run(
        [sys.executable, str(BENCHMARK), "--count", "70", "--seed", "7", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(kbnet.__file__).parents[1])},
    )
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    results = json.loads((tmp_path / "hostile.json").read_text())
    for way in ("kbnet restore", "kbnet serve", "load_model"):
        assert results[way]["files"] == 70
        assert results[way]["problems"] == []
    assert results["kbnet restore"]["failed"] > 35  # most are damaged beyond reading
    assert results["kbnet restore"]["done"] > 5  # and some are not
    assert results["load_model"]["refused"] > 35


@pytest.mark.slow
def test_the_corpus_is_the_same_every_time_and_holds_what_it_says():
    first = dict(corpus.pictures(400, 1))
    assert first == dict(corpus.pictures(400, 1))
    assert len(first) == 400
    kinds = {name.split("-", 1)[1].rpartition(".")[0] for name in first}
    assert {"cut", "png-bomb", "jpeg-bomb", "webp-bomb", "tiff-loop", "polyglot", "wrong-number"} <= kinds
    assert {name.split("-", 1)[1] for name, _ in corpus.weights(90, 1)} >= {
        "runs-code.pth",
        "own-odd-settings.safetensors",
    }


def test_the_files_that_damage_is_done_to_are_good(tmp_path):
    for content in corpus._good_pictures().values():
        assert read_photo(content).pixels.shape[:2] in ((40, 48), (48, 40))  # some say that they are turned
    for name, content in corpus._good_weights().items():
        path = tmp_path / name
        path.write_bytes(content)
        assert load_model(path).family == "kbnet-s"


def test_a_pickle_that_would_run_code_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = corpus._runs_code(b"", None)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="it could run code"):
        load_model(tmp_path / "w.pth")
    assert not (tmp_path / "was-run").exists()
    pickle.load(io.BytesIO(content))["net"]["first.weight"].close()  # and it would have
    assert (tmp_path / "was-run").exists()


WEIGHTS = list(corpus._good_weights().values())
PICTURES = list(corpus._good_pictures().values())
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), st.binary(max_size=40)), min_size=1, max_size=6)


def edited(content, edits):
    for place, removed, inserted in edits:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + removed :]
    return content


def result_or_line(read, source, kind):
    """What is read and no message, or nothing and the one line of an error of this kind."""
    try:
        return read(source), ""
    except kind as error:
        text = str(error)
    assert text.isprintable()
    return None, text


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(WEIGHTS), EDITS)
def test_whatever_is_done_to_a_weights_file_it_loads_or_is_refused(tmp_path, content, edits):
    path = tmp_path / "w"
    path.write_bytes(edited(content, edits))
    network, message = result_or_line(load_model, path, CheckpointError)
    assert len(message) < 600
    assert network is None or all(p.isfinite().all() for p in network.parameters())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(PICTURES), EDITS)
def test_whatever_is_done_to_a_picture_it_is_read_or_refused(content, edits):
    photo, message = result_or_line(read_photo, edited(content, edits), ImageError)
    assert len(message) < 600
    assert photo is None or photo.pixels.size
