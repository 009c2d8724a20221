"""`kbnet evaluate` on tiny sets: rows, resuming, reports, submissions."""

import json
import os
import signal

import numpy as np
import pytest
from cli_files import names, picture
from scipy.io import savemat

from kbnet.evaluation.session import Session
from kbnet.imaging import read_photo


@pytest.fixture
def pairs(tmp_path):
    """Three pairs."""
    for seed in range(3):
        picture(tmp_path / "pairs" / "input" / f"{seed}.png", seed=seed)
        picture(tmp_path / "pairs" / "target" / f"{seed}.png", seed=seed + 10)
    return tmp_path / "pairs"


@pytest.fixture
def evaluate(kbnet_, tiny):
    """`kbnet evaluate` with the tiny network."""
    return lambda *arguments, **options: kbnet_("evaluate", "--model", tiny, *arguments, **options)


def test_the_list_says_what_every_benchmark_needs(kbnet_):
    done = kbnet_("evaluate", "--list")
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    for word in ("cbsd68", "sidd-benchmark", "indoor_labels.npy", "1280", "York University"):
        assert word in text
    listed = json.loads(kbnet_("evaluate", "--list", "--json").out)
    assert {"rain100l", "pairs", "blur", "clean"} <= {benchmark["name"] for benchmark in listed}


def test_results_have_rows_facts_and_the_command(evaluate, pairs, tmp_path):
    done = evaluate("--benchmark", "pairs", "--data", pairs, "-o", tmp_path / "r.json", "--strength", 0.5)
    assert done.code == 0
    assert "PSNR, restored" in done.out.decode()
    assert done.err == f"written: {tmp_path / 'r.json'}\n"
    results = json.loads((tmp_path / "r.json").read_text())
    command = "kbnet evaluate --benchmark pairs --data pairs --model tiny.safetensors --strength 0.5"
    assert results["facts"]["command"] == command
    assert len(results["settings"]["sha256"]) == 64
    assert (results["settings"]["set"], results["settings"]["model"]) == ("pairs", "tiny")
    assert [row["photo"] for row in results["images"]] == ["0", "1", "2"]
    for row in results["images"]:
        assert row["input"]["psnr"] < 10
        assert row["seconds"] > 0
    mean = np.mean([row["output"]["psnr"] for row in results["images"]])
    assert results["means"]["all"]["output"]["psnr"] == pytest.approx(mean, abs=1e-4)
    assert names(tmp_path).count("r.json") == 1
    assert not any(name.endswith(".rows") for name in names(tmp_path))


def test_a_model_that_returns_its_input_is_scored_as_its_input(evaluate, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(Session, "restore", lambda session, image: image)
    done = evaluate("--benchmark", "pairs", "--data", pairs, "--json")
    (mean,) = json.loads(done.out)["means"].values()
    assert mean["input"] == mean["output"]
    assert mean["worse"] == 0


def test_an_interrupted_evaluation_goes_on_where_it_was(evaluate, pairs, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    restore, seen = Session.restore, []

    def interrupted(session, image):
        seen.append(1)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return restore(session, image)

    arguments = ("--benchmark", "pairs", "--data", pairs, "-o", tmp_path / "r.json")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Session, "restore", interrupted)
            done = evaluate(*arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert done.err == "kbnet: interrupted: 1 of 3 images measured; continue with --resume\n"
    assert (evaluate(*arguments).code, evaluate(*arguments).err.count("\n")) == (1, 1)
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "restore", lambda session, image: (seen.append(1), restore(session, image))[1])
        assert evaluate(*arguments, "--resume", "--report", tmp_path / "r.html").code == 0
    assert len(seen) == 3  # the two that were missing, and the first one's pictures for the report
    resumed = json.loads((tmp_path / "r.json").read_text())
    assert evaluate(*arguments, "--overwrite").code == 0
    again = json.loads((tmp_path / "r.json").read_text())
    for results in (resumed, again):
        for row in results["images"]:
            del row["seconds"]
    assert resumed["images"] == again["images"]
    assert resumed["means"] == again["means"]


def test_more_pictures_are_added_to_a_quick_look(evaluate, pairs, tmp_path):
    arguments = ("--benchmark", "pairs", "--data", pairs, "-o", tmp_path / "r.json")
    assert evaluate(*arguments, "--limit", 1).code == 0
    first = json.loads((tmp_path / "r.json").read_text())
    assert (first["limit"], len(first["images"])) == (1, 1)
    assert evaluate(*arguments, "--resume").code == 0
    whole = json.loads((tmp_path / "r.json").read_text())
    assert (whole["limit"], len(whole["images"])) == (None, 3)
    assert whole["images"][0] == first["images"][0]
    assert evaluate(*arguments, "--resume", "--limit", 2, "--report", tmp_path / "r.html").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["images"] == whole["images"]  # a quick look loses nothing
    done = evaluate(*arguments, "--resume", "--strength", 0.5)
    assert (done.code, "strength was 1.0, now 0.5" in done.err) == (2, True)


def test_a_broken_picture_is_named_the_others_are_measured_and_the_exit_code_tells(evaluate, pairs, tmp_path):
    (pairs / "input" / "1.png").write_bytes(b"broken")
    arguments = ("--benchmark", "pairs", "--data", pairs, "-o", tmp_path / "r.json")
    done = evaluate(*arguments, "-q", "--report", tmp_path / "r.html")
    assert done.code == 1
    assert done.err.splitlines()[0].startswith("kbnet: error: all/1: ")
    assert done.err.splitlines()[1] == "kbnet: error: 1 of 3 images failed: all/1"
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["failed"] == ["all/1"]
    assert [("error" in row) for row in results["images"]] == [False, True, False]
    assert "1 failed: all/1" in (tmp_path / "r.html").read_text()
    picture(pairs / "input" / "1.png", seed=1)
    assert evaluate(*arguments, "--resume", "-q").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["failed"] == []


def test_pictures_are_saved_with_the_inputs_that_were_made(evaluate, tmp_path):
    picture(tmp_path / "photos" / "a.png")
    arguments = ("--benchmark", "gaussian", "--data", tmp_path / "photos", "--sigma", 25, "--sigma", 5, "-q")
    assert evaluate(*arguments, "--save", tmp_path / "saved").code == 0
    assert names(tmp_path / "saved") == [f"{k}/sigma {s}/a.png" for k in ("input", "restored") for s in (25, 5)]
    assert read_photo(tmp_path / "saved" / "restored" / "sigma 25" / "a.png").pixels.shape == (24, 32, 3)


@pytest.mark.parametrize("kind", ["input", "restored"])
def test_saved_pictures_are_replaced_only_on_request_or_by_the_run_they_belong_to(evaluate, tmp_path, kind):
    picture(tmp_path / "photos" / "a.png")
    picture(tmp_path / "photos" / "b.png")
    mine = tmp_path / "saved" / kind / "sigma 25" / "b.png"
    picture(mine, seed=9)
    kept = mine.read_bytes()
    arguments = ("--benchmark", "gaussian", "--data", tmp_path / "photos", "--sigma", 25, "--save", tmp_path / "saved")
    for options in ((), ("--resume",), ("-o", tmp_path / "r.json")):
        done = evaluate(*arguments, *options)
        assert (done.code, done.err.startswith("kbnet: error: ")) == (1, True)
        assert f"{mine}: the file exists; choose another --save folder or add --overwrite" in done.err
        assert names(tmp_path) == ["photos/a.png", "photos/b.png", f"saved/{kind}/sigma 25/b.png"]
        assert mine.read_bytes() == kept
    assert evaluate(*arguments, "-q", "--overwrite").code == 0
    assert mine.read_bytes() != kept
    assert evaluate(*arguments, "-q", "--limit", 1, "--overwrite", "-o", tmp_path / "r.json").code == 0
    assert evaluate(*arguments, "-q", "--resume", "-o", tmp_path / "r.json").code == 0


def test_a_submission_is_packed_from_every_block(evaluate, tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3)).astype(np.uint8)
    (tmp_path / "sidd").mkdir()
    savemat(tmp_path / "sidd" / "BenchmarkNoisyBlocksSrgb.mat", {"BenchmarkNoisyBlocksSrgb": blocks})
    arguments = ("--benchmark", "sidd-benchmark", "--data", tmp_path / "sidd", "--submission", tmp_path / "s.csv")
    assert "needs --benchmark sidd-benchmark and --save FOLDER" in evaluate(*arguments).err
    done = evaluate(*arguments, "--save", tmp_path / "saved")
    assert done.code == 0
    assert "has 1280 images, this folder has 4" in done.err
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected a benchmark"),
        (("--benchmark", "sots", "--data", "."), "expected a benchmark (gaussian, "),
        (("--benchmark", "pairs", "--data", "gone"), "gone is not a folder"),
        (("--benchmark", "pairs", "--data", ".", "--sigma", 5), "takes no --sigma"),
        (("--benchmark", "pairs", "--data", ".", "--kernels", "."), "takes no --kernels"),
        (("--benchmark", "pairs", "--data", ".", "--tile", "large"), "expected protocol, auto, 0"),
        (("--benchmark", "pairs", "--data", ".", "--report", "gone/r.html"), "folder does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(options, message, evaluate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = evaluate(*options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
