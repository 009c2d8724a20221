"""Kill -9 at random moments: of a folder, of one picture by rows, of a training and of a job on Ray.

    python benchmarks/kills.py [--kills 200] [--only folder stream train ray]

Each run is killed at a moment drawn evenly from the time that an uninterrupted one takes, started again as a user would
start it again, perhaps killed again, and at last let finish. Then what it wrote must equal what the uninterrupted run
wrote, and nothing else may lie beside it. On Ray the victim is the process of the job or one of its workers, at a time
when results appear.

Runs are forked from a process that has loaded the package, so that kills fall into the work and not into imports.
Writes benchmarks/results/kills.json, also where something went wrong, and exits with 1 then.
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

AGAIN = 0.6  # of the runs that were started again are killed again
PATIENCE = 900.0  # seconds for a run that nobody kills


class Cluster:
    """A Ray of this machine alone, in a process of its own; its processes end with that one."""

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
        """Where it answers."""
        deadline = time.monotonic() + PATIENCE
        while not self.place.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("Ray did not start")
            time.sleep(0.1)
        return self.place.read_text(encoding="ascii")

    def workers(self) -> list[int]:
        """Processes that restore pictures now."""
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
    """Do it in a process of its own, whose words go to a file; its id."""
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
    """The exit code of a process, negative for a signal; None if it still runs at that time."""
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


class Trial:
    """One run of a kind: started, killed, started again, until it has finished."""

    def __init__(self, kind: Kind, shared: Path, folder: Path, rng: random.Random, seconds: float) -> None:
        self.kind, self.shared, self.folder, self.rng, self.seconds = kind, shared, folder, rng, seconds
        self.kills = 0

    def run(self, cluster: Cluster | None) -> int:
        """Kill once, perhaps again, then let it finish; the exit code of the last start."""
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
                if not self.kills:  # it was quicker than its moment
                    self.seconds = min(self.seconds, time.monotonic() - begun)
                return code

    def _kill(self, process: int) -> int | None:
        code = wait(process, time.monotonic() + self.rng.uniform(0, self.seconds))
        if code is not None:
            return code  # it was quicker than the one that was timed
        os.kill(process, signal.SIGKILL)
        self.kills += 1
        return wait(process, time.monotonic() + PATIENCE)

    def _kill_worker(self, process: int, cluster: Cluster) -> int | None:
        """The same on Ray: once some results are there, the job, or some of its workers one after another."""
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
            pass  # a worker that had just ended
        return wait(process, time.monotonic() + PATIENCE) if victim == process else None


def measure(kind: Kind, kills: int, rng: random.Random, place: Path) -> dict[str, Any]:
    """Kill runs of a kind until there were so many kills; what came of it."""
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
    """What is wrong with what a run left, in a line; nothing if it is what an uninterrupted one leaves."""
    if code:
        return f"it ended with {code}"
    try:
        left = kind.left(folder)
    except (OSError, ValueError) as error:
        return f"what it left cannot be read: {error}"
    if more := sorted(left.keys() - expected.keys()):
        return f"left behind: {', '.join(more)}"
    if fewer := sorted(expected.keys() - left.keys()):
        return f"missing: {', '.join(fewer)}"
    return ", ".join(f"{name} differs" for name in expected if left[name] != expected[name])


def finish(process: int, output: Path) -> None:
    """Wait for a process that nobody kills."""
    if code := wait(process, time.monotonic() + PATIENCE):
        raise SystemExit(f"a run that nobody killed ended with {code}: {output.read_text(encoding='utf-8')}")


def main() -> int:
    kinds: list[Kind] = [Folder(), Stream(), Training(), Ray()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each kind")
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in kinds], help="these kinds; others are kept")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that Ray stays on 127.0.0.1; it is read at its import
    os.environ["RAY_AUTH_MODE"] = "disabled"  # the token of the cluster is that of its own process alone
    # By itself Ray gives way to everything else on the machine.
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
