"""A local cluster of two workers: one is killed in the middle, and every result is there, right, and once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_jobs import make_pictures, make_weights

import kbnet
from kbnet.cli import main
from kbnet.imaging import read_photo

pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)  # a cluster starts in seconds, or in minutes on a machine that is busy

SOURCE = Path(kbnet.__file__).parents[1]
NAMES = [f"{number}.png" for number in range(12)]

# In a process of its own: Ray leaves threads and handlers behind.
JOB = """
import json, os, sys
import psutil
from kbnet.distributed import Settings, plan_rows, restore_rows

source, target, weights = sys.argv[1:]
outcomes, addresses = [], set()
settings = Settings(model=weights, options={"tile": 0}, workers=2)
for outcome in restore_rows(plan_rows([source], target), settings):
    if not outcomes:
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                addresses |= {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
            except psutil.Error:  # it ended meanwhile
                pass
    outcomes.append([outcome.row.input, outcome.error, outcome.attempts])
usage = os.environ["RAY_USAGE_STATS_ENABLED"]
print(json.dumps({"outcomes": outcomes, "addresses": sorted(addresses), "usage": usage}))
"""

# Python runs it in every process before anything else. The first worker that reads 5.png is killed at that.
KILL_ONCE = """
import os, signal
from pathlib import Path

read = Path.read_bytes


def read_bytes(path):
    killed = Path(__file__).with_name("killed")
    if path.name == "5.png" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)


Path.read_bytes = read_bytes
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    make_pictures(folder / "in", NAMES, height=96, width=128)
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    weights = make_weights(folder / "tiny.safetensors")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(KILL_ONCE)
    path = os.pathsep.join([str(folder / "site"), str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(folder / "in"), str(folder / "out"), str(weights)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_input_has_one_outcome_though_a_worker_was_killed(job):
    folder, report = job
    assert (folder / "site" / "killed").exists()
    names = [Path(source).name for source, _, _ in report["outcomes"]]
    assert sorted(names) == sorted([*NAMES, "broken.png"])
    ((broken, error, attempts),) = [outcome for outcome in report["outcomes"] if outcome[1]]
    assert Path(broken).name == "broken.png"
    assert "the PNG file is truncated" in error
    assert attempts == 1


@pytest.mark.slow
def test_every_result_is_there_and_right_and_nothing_else_is(job):
    folder, _ = job
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(NAMES)
    restorer = kbnet.Restorer.from_pretrained(folder / "tiny.safetensors", tile=0)
    for name in NAMES:
        expected = restorer(read_photo(folder / "in" / name).pixels)
        np.testing.assert_array_equal(read_photo(folder / "out" / name).pixels, expected)


@pytest.mark.slow
def test_the_local_cluster_listens_on_this_machine_alone_and_reports_to_nobody(job):
    _, report = job
    assert report["addresses"]
    assert set(report["addresses"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert report["usage"] == "0"


@pytest.mark.slow
def test_a_second_run_in_place_restores_no_result_again(tmp_path):
    make_pictures(tmp_path / "d", ["a.png", "b.png"])
    weights = make_weights(tmp_path / "tiny.safetensors")
    original = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    given = ["restore", "d", "-o", "d", "--overwrite", "--engine", "ray", "--workers", "1", "--model", str(weights)]
    seen = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "kbnet", *given],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        seen.append({path.name: path.read_bytes() for path in (tmp_path / "d").iterdir() if path.suffix == ".png"})
    assert all(seen[0][name] != data for name, data in original.items())
    assert seen[1] == seen[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-", "--engine", "ray"], "not a pipe"),
        (["s3://bucket/in", "-o", "out"], "URLs need --engine ray"),
        (["a.png", "--workers", "2"], "needs --engine ray"),
        (["a.png", "--engine", "ray", "--model", "nothing"], "expected an included model"),
    ],
)
def test_the_command_refuses_what_an_engine_cannot_do(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path, ["a.png"])
    assert main(["restore", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
