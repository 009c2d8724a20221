"""`kill -9` at random moments: folders, streaming, training and Ray jobs.

    python benchmarks/kills.py [--kills 200] [--only folder stream train ray]

Each run is killed at a random moment, uniformly distributed over the time of an uninterrupted run, then restarted as a
user would do it, sometimes killed again, and finally allowed to finish. Its output must be the same as that of the
uninterrupted run, without any other files. On Ray, the job's process or one of its workers is killed while results are
being written.

Runs are forked from a process that has already loaded the package, so that kills hit the work and not the imports.
Writes benchmarks/results/kills.json in any case. Exits with 1 if there was a problem.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from facts import RESULTS, write
from killed_runs import LOG, Folder, Kind, Ray, Stream, Training

AGAIN = 0.6  # share of the restarted runs that are killed again
PATIENCE = 900.0  # seconds for an uninterrupted run


class Cluster:
    """A local Ray cluster in a separate process; its processes end together with that process."""

    def __init__(self, place: Path) -> None:
        self.place = place

        def hold() -> int:
            import ray

            options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 128 * 2**20}
            ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", log_to_driver=False, **options)
            part = place.with_name("address.part")
            part.write_text(ray.get_runtime_context().gcs_address, encoding="ascii")
            part.rename(place)
            while True:
                time.sleep(1)

        self.process = fork(hold, place.with_name("cluster.log"))

    def address(self) -> str:
        """The cluster's address."""
        deadline = time.monotonic() + PATIENCE
        while not self.place.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("Ray did not start")
            time.sleep(0.1)
        return self.place.read_text(encoding="ascii")

    def workers(self) -> list[int]:
        """Processes that are restoring images."""
        import psutil

        found = []
        for child in psutil.Process(self.process).children(recursive=True):
            try:
                if child.cmdline()[0].startswith("ray::MapWorker"):
                    found.append(child.pid)
            except (psutil.Error, IndexError):
                continue
        return found

    def close(self) -> None:
        """End it."""
        os.kill(self.process, signal.SIGTERM)
        os.waitpid(self.process, 0)


def fork(work: Callable[[], int], output: Path) -> int:
    """Run it in a separate process with its output in a file; return the process ID."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        words = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(words, 1)
        os.dup2(words, 2)
        code = work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, until: float) -> int | None:
    """The exit code of a process, negative for a signal; None if it is still running then."""
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


class Trial:
    """One run of a kind: started, killed and restarted until it finishes."""

    def __init__(self, kind: Kind, shared: Path, folder: Path, rng: random.Random, seconds: float) -> None:
        self.kind, self.shared, self.folder, self.rng, self.seconds = kind, shared, folder, rng, seconds
        self.kills = 0

    def run(self, cluster: Cluster | None) -> int:
        """Kill once or twice, then let it finish; return the last exit code."""
        while True:
            begun = time.monotonic()
            process = fork(lambda: self.kind.start(self.shared, self.folder), self.folder / LOG)
            if not self.kills or self.rng.random() < AGAIN:
                code = self._kill_worker(process, cluster) if cluster else self._kill(process)
            else:
                code = wait(process, time.monotonic() + PATIENCE)
            if code is None:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return 124
            if code != -signal.SIGKILL:
                if not self.kills:  # it finished before the chosen moment
                    self.seconds = min(self.seconds, time.monotonic() - begun)
                return code

    def _kill(self, process: int) -> int | None:
        code = wait(process, time.monotonic() + self.rng.uniform(0, self.seconds))
        if code is not None:
            return code  # it finished faster than the timed run
        os.kill(process, signal.SIGKILL)
        self.kills += 1
        return wait(process, time.monotonic() + PATIENCE)

    def _kill_worker(self, process: int, cluster: Cluster) -> int | None:
        """The same on Ray: after the first results, kill the job, or some of its workers one after another."""
        code = self._kill_one(process, cluster)
        while code is None and self.rng.random() < AGAIN:
            code = self._kill_one(process, cluster)
        return wait(process, time.monotonic() + PATIENCE) if code is None else code

    def _kill_one(self, process: int, cluster: Cluster) -> int | None:
        results, deadline = self.rng.randrange(24), time.monotonic() + PATIENCE
        while len(list((self.folder / "out").glob("*.png"))) < results and time.monotonic() < deadline:
            if (code := wait(process, 0)) is not None:
                return code
            time.sleep(0.005)
        if (code := wait(process, time.monotonic() + self.rng.uniform(0, 0.5))) is not None:
            return code
        victim = self.rng.choice([process, *cluster.workers()])
        try:
            os.kill(victim, signal.SIGKILL)
            self.kills += 1
        except ProcessLookupError:
            pass  # the worker had just exited
        return wait(process, time.monotonic() + PATIENCE) if victim == process else None


def measure(kind: Kind, kills: int, rng: random.Random, place: Path) -> dict[str, Any]:
    """Kill runs of a kind until the number of kills is reached; return the results."""
    shared = place / "shared"
    shared.mkdir(parents=True)
    finish(fork(lambda: kind.prepare(shared) or 0, place / "prepare.log"), place / "prepare.log")
    kind.load()
    cluster = None
    if isinstance(kind, Ray):
        cluster = Cluster(place / "address")
        kind.address = cluster.address()
    try:
        whole = place / "whole"
        whole.mkdir()
        start = time.monotonic()
        finish(fork(lambda: kind.start(shared, whole), whole / LOG), whole / LOG)
        seconds = time.monotonic() - start
        expected = kind.left(whole)
        found: dict[str, Any] = {"kills": 0, "runs": 0, "wrong": [], "seconds_uninterrupted": round(seconds, 2)}
        while found["kills"] < kills:
            folder = place / f"{found['runs']}"
            folder.mkdir()
            trial = Trial(kind, shared, folder, rng, seconds)
            code = trial.run(cluster)
            found["runs"] += 1
            found["kills"] += trial.kills
            seconds = trial.seconds
            if wrong := judge(code, kind, folder, expected):
                found["wrong"].append(wrong)
                print(
                    f"{kind.name}: {wrong}\n{(folder / LOG).read_text(encoding='utf-8', errors='replace')}", flush=True
                )
            else:
                shutil.rmtree(folder)
            print(f"{kind.name}: {found['kills']} of {kills} kills, {len(found['wrong'])} wrong", flush=True)
        return found
    finally:
        if cluster is not None:
            cluster.close()


def judge(code: int, kind: Kind, folder: Path, expected: dict[str, str]) -> str:
    """The difference from an uninterrupted run's output, in one line; empty if there is none."""
    if code:
        return f"it exited with {code}"
    try:
        left = kind.left(folder)
    except (OSError, ValueError) as error:
        return f"its output can't be read: {error}"
    if more := sorted(left.keys() - expected.keys()):
        return f"left behind: {', '.join(more)}"
    if fewer := sorted(expected.keys() - left.keys()):
        return f"missing: {', '.join(fewer)}"
    return ", ".join(f"{name} differs" for name in expected if left[name] != expected[name])


def finish(process: int, output: Path) -> None:
    """Wait for an uninterrupted process."""
    if code := wait(process, time.monotonic() + PATIENCE):
        raise SystemExit(f"an uninterrupted run exited with {code}: {output.read_text(encoding='utf-8')}")


def main() -> int:
    kinds: list[Kind] = [Folder(), Stream(), Training(), Ray()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of each kind")
    parser.add_argument(
        "--only", nargs="+", choices=[kind.name for kind in kinds], help="only these kinds; results of others are kept"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # keeps Ray on 127.0.0.1; Ray reads it at import
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the cluster's token is known only to its own process
    # By default, Ray's workers run at low priority.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # Ray spells it so
    torch.set_num_threads(1)

    path = options.results / "kills.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if options.only and path.exists() else {}
    for kind in kinds:
        if options.only and kind.name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as place:
            rows[kind.name] = {"seed": options.seed} | measure(
                kind, options.kills, random.Random(f"{kind.name} {options.seed}"), Path(place)
            )
    write("kills", {"rows": rows}, options.results)
    return 1 if any(row["wrong"] for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
