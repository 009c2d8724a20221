"""Runs in processes of their own: killed at any moment, and two that share a batch."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_runs import curve, make_photos, table, toml

import kbnet
from kbnet.training import checkpoint
from kbnet.training.curves import NAME

STEPS = 30
LIMIT = 120  # seconds; a hang is a failure

PLAN = table(
    phases=[{"steps": 20, "patch": 8, "batch": 4}, {"steps": STEPS - 20, "patch": 16, "batch": 3}],
    mixup={"probability": 0.5},
    run={"validation_steps": 8, "checkpoint_minutes": 0.001, "log_steps": 3},
)
"""Batches of 4 and 3 patches, so that two processes have equal shares and unequal ones."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the recipe and photos."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "plan.toml").write_text(toml(PLAN))
    make_photos(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def launch(place):
    """launch(run_folder, *options, processes=1) -> children at work on `PLAN`, killed if they are left over."""
    started = []

    def start(folder, *options, processes=1):
        command = ["train", place / "plan.toml", "--data", place / "photos", "--run", folder, "-q", *options]
        port = free_port()
        for rank in range(processes):
            child = subprocess.Popen(
                [sys.executable, "-m", "kbnet", *map(str, command)],
                env=os.environ | ENVIRONMENT | (_places(rank, processes, port) if processes > 1 else {}),
                stderr=subprocess.PIPE,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            started.append(child)
        return started[-processes:]

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


ENVIRONMENT = {"PYTHONPATH": str(Path(kbnet.__file__).parents[1]), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def _places(rank, processes, port):
    """What torchrun and `accelerate launch` tell the processes that they start."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in places.items()}


@pytest.fixture(scope="module")
def whole(launch, place):
    """Folders of uninterrupted runs, by number of processes."""
    folders = {count: place / f"whole-{count}" for count in (1, 2)}
    for children in [launch(folder, processes=count) for count, folder in folders.items()]:
        finish(children)
    return folders


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def finish(children):
    for child in children:
        _, err = child.communicate(timeout=LIMIT)
        assert (child.returncode, err.decode()) == (0, "")


def kill_when(children, folder, lines):
    """Kill them all, as by a power cut, as soon as the log has so many lines."""
    deadline = time.monotonic() + LIMIT
    while not (folder / NAME).exists() or (folder / NAME).read_text().count("\n") < lines:
        assert time.monotonic() < deadline
        assert children[0].poll() is None, children[0].communicate()
        time.sleep(0.002)
    for child in children:
        child.kill()
    for child in children:
        child.wait(timeout=LIMIT)


def numbers(folder):
    """Every tensor of a run's last checkpoint by name."""
    kept = checkpoint.load(folder)
    tensors = {f"{part}.{key}": value for part in ("model", "ema") for key, value in kept[part].items()}
    for index, values in kept["optimizer"]["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in values.items()}
    return tensors


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_curve_and_weights(processes, whole, launch, tmp_path):
    killed, expected = tmp_path / "killed", whole[processes]
    kill_when(launch(killed, "--workers", 1, processes=processes), killed, 6)
    assert 0 < checkpoint.load(killed)["step"] < STEPS
    assert not (killed / "model.safetensors").exists()
    finish(launch(killed, "--resume", processes=processes))
    assert curve(killed) == curve(expected)
    assert [entry["step"] for entry in curve(killed) if "loss" in entry] == [*range(3, STEPS + 1, 3)]
    got, wanted = numbers(killed), numbers(expected)
    assert got.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(got[key], wanted[key])] == []
    assert (killed / "model.safetensors").exists()
    assert list(killed.glob(".*")) == []


@pytest.mark.slow
def test_two_processes_learn_as_one_does_with_the_whole_batch(whole):
    one, two = (curve(whole[count]) for count in (1, 2))
    assert [entry.keys() for entry in one] == [entry.keys() for entry in two]
    for a, b in zip(one, two, strict=True):
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=2e-2)
        else:
            assert b["psnr"] == pytest.approx(a["psnr"], abs=0.05)
    assert one != two  # sums in another order


@pytest.mark.slow
def test_one_of_two_processes_told_to_stop_stops_both_after_the_same_step(launch, tmp_path):
    folder = tmp_path / "run"
    children = launch(folder, "--set", "phases=[{steps=100000, patch=8, batch=4}]", processes=2)
    deadline = time.monotonic() + LIMIT
    while not (folder / NAME).exists() or (folder / NAME).read_text().count("\n") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children[1].send_signal(signal.SIGINT)
    first, second = (child.communicate(timeout=LIMIT)[1].decode() for child in children)
    step = checkpoint.load(folder)["step"]
    assert first.count("\n") == 1
    assert f"after step {step} of 100000; continue with --resume --run {folder}" in first
    assert second == ""
    assert {child.returncode for child in children} <= {130, 143}


@pytest.mark.slow
def test_torchrun_starts_it_and_an_error_is_told_once(place, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    # "--", or torchrun takes --run for one of its own options
    command += ["--master-port", str(free_port()), "-m", "--", "kbnet", "train", str(place / "plan.toml")]
    command += ["--data", str(tmp_path / "nothing"), "--run", str(tmp_path / "run"), "-q"]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("kbnet: error: expected a folder, got ") == 1
