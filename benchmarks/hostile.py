"""Test thousands of malformed images and weights files for crashes, hangs, leaks and tracebacks.

    python benchmarks/hostile.py                # 2,000 for each of the three inputs: a few minutes
    python benchmarks/hostile.py --count 70     # as in the tests

The files come from tests/hostile/corpus.py: damaged PNG, JPEG, TIFF and WebP, decompression bombs, invalid profiles and
EXIF blocks, polyglot files, weights files that try to run code. `kbnet restore` gets them as folders, `kbnet serve`
one by one (as a body, or as a form with an unusual file name), and `load_model` as weights.

Writes benchmarks/results/hostile.json. Exits with 1 if there was a problem.
"""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

import facts
import kbnet
from kbnet.errors import ModelError
from kbnet.imaging import read_photo
from kbnet.models import load_model

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hostile"))
import corpus

SLOW = 10.0  # seconds for one file
ANSWERS = {200, 400, 413, 415, 422}
GROWTH = 64  # megabytes; the allocator may keep the memory of one image
LONGEST = 600  # characters of a message
BATCH = 500  # files in a folder
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(kbnet.__file__).resolve().parents[1])}  # also in another folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files for each of the three inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=facts.RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        results = {
            "kbnet restore": through_folders(options.count, options.seed, place),
            "kbnet serve": through_server(options.count, options.seed + 1, place),
            "load_model": through_loader(options.count, options.seed + 2, place),
        }
        left = sorted(str(path.relative_to(place)) for path in place.rglob("*"))
    problems = sum(len(part["problems"]) for part in results.values()) + len(left)
    results |= {"files left behind": left[:20], "problems in total": problems}
    print(json.dumps(results, indent=1))
    print(facts.write("hostile", results, options.results))
    return 1 if problems else 0


def through_folders(count: int, seed: int, place: Path) -> dict[str, Any]:
    """Folders on the command line: one line per failed file, one complete image per successful file."""
    problems: list[str] = []
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    files = list(corpus.pictures(count, seed))
    for start in range(0, count, BATCH):
        source, target, log = place / "in", place / "out", place / "log.jsonl"
        source.mkdir()
        given = dict(files[start : start + BATCH])
        for name, content in given.items():
            (source / name).write_bytes(content)
        command = [sys.executable, "-m", "kbnet", "restore", str(source), "-o", str(target), "--log", str(log), "-q"]
        try:
            done = subprocess.run(
                command,
                cwd=place,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=60 + SLOW / 4 * len(given),
                check=False,
            )
        except subprocess.TimeoutExpired:
            problems.append(f"files from {start}: did not exit")
            break
        if done.returncode not in (0, 1):
            problems.append(f"files from {start}: exit code {done.returncode}")
        problems += messages(done.stderr, "kbnet: ")
        entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        ended = {Path(entry["input"]).name: entry for entry in entries if entry["event"] not in ("settings", "writing")}
        if ended.keys() != given.keys():
            problems.append(f"no outcome for {sorted(given.keys() ^ ended.keys())[:3]}")
        for entry in ended.values():
            outcomes[entry["event"]] += 1
            slowest = max(slowest, entry["seconds"])
            if entry["event"] == "done":
                read_photo(Path(entry["output"]).read_bytes())  # raises if it is incomplete
        written = {Path(entry["output"]).name for entry in ended.values() if entry["event"] == "done"}
        if target.exists() and {path.name for path in target.iterdir()} != written:
            problems.append(f"left in the output folder: {sorted({p.name for p in target.iterdir()} ^ written)[:3]}")
        if {path.name: path.read_bytes() for path in source.iterdir()} != given:
            problems.append("an input was changed")
        shutil.rmtree(source)
        shutil.rmtree(target, ignore_errors=True)
        log.unlink()
    return {"files": count, **outcomes, "slowest, seconds": slowest, "problems": slow(slowest) + problems}


def through_server(count: int, seed: int, place: Path) -> dict[str, Any]:
    """Send the files one by one to a server process, which must be healthy and not have grown at the end."""
    problems: list[str] = []
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    command = [sys.executable, "-m", "kbnet", "serve", "--port", "0", "--no-page"]
    with subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = f"http://127.0.0.1:{re.search(r':([0-9]+)', server.stderr.readline())[1]}"  # type: ignore[index]
        log: list[str] = []
        threading.Thread(target=lambda lines=server.stderr: log.extend(lines), daemon=True).start()
        with httpx.Client(base_url=address, timeout=6 * SLOW) as client:
            before: tuple[int, float] | None = None
            for index, (name, content) in enumerate(corpus.pictures(count, seed)):
                if index == count // 4:
                    before = descriptors(server.pid), resident(server.pid)
                started = time.perf_counter()
                try:
                    if index % 3:
                        reply = client.post("/v1/restore", content=content)
                    else:
                        odd = corpus.FILE_NAMES[index // 3 % len(corpus.FILE_NAMES)]
                        reply = client.post("/v1/restore", files={"image": (odd, content)})
                except httpx.HTTPError as error:
                    problems.append(f"{name}: no reply, {error!r}")
                    continue
                took = time.perf_counter() - started
                if index:  # the first one waits until the network is loaded
                    slowest = max(slowest, took)
                outcomes[str(reply.status_code)] += 1
                if reply.status_code not in ANSWERS:
                    problems.append(f"{name}: {reply.status_code} {reply.text[:200]}")
                elif reply.status_code == 200:
                    read_photo(reply.content)
                else:
                    problems += messages(json.dumps(reply.json()), "{")
            after = descriptors(server.pid), resident(server.pid)
            if client.get("/healthz").status_code != 200:
                problems.append("not healthy at the end")
            assert before is not None
        server.send_signal(signal.SIGTERM)
        if server.wait(60) not in (0, 128 + signal.SIGTERM):
            problems.append(f"the server exited with {server.returncode}")
    if after[0] > before[0] + 2:
        problems.append(f"file descriptors rose from {before[0]} to {after[0]}")
    if after[1] > before[1] + GROWTH:
        problems.append(f"memory rose from {before[1]:.0f} to {after[1]:.0f} megabytes")
    problems += [f"log: {line.strip()[:200]}" for line in log if "Traceback" in line]
    return {
        "files": count,
        **{f"status {status}": outcomes[status] for status in sorted(outcomes)},
        "slowest, seconds": round(slowest, 3),
        "descriptors after a quarter and at the end": [before[0], after[0]],
        "resident megabytes after a quarter and at the end": [round(before[1], 1), round(after[1], 1)],
        "problems": slow(slowest) + problems,
    }


def through_loader(count: int, seed: int, place: Path) -> dict[str, Any]:
    """Load each file as weights: the outcome must be a network or a one-line KBNetError."""
    problems: list[str] = []
    outcomes: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    home = Path.cwd()
    os.chdir(place)  # the folder that a hostile pickle would write to
    descriptors_before = descriptors(os.getpid())
    try:
        for name, content in corpus.weights(count, seed):
            path = place / name
            path.write_bytes(content)
            started = time.perf_counter()
            try:
                load_model(path)
                outcomes["networks"] += 1
            except ModelError as error:
                outcomes["refused"] += 1
                problems += messages(str(error), "")
            except Exception as error:
                problems.append(f"{name}: {error!r}"[:300])
            slowest = max(slowest, time.perf_counter() - started)
            path.unlink()
    finally:
        os.chdir(home)
    if descriptors(os.getpid()) > descriptors_before + 2:
        problems.append("file descriptors were left open")
    return {"files": count, **outcomes, "slowest, seconds": round(slowest, 3), "problems": slow(slowest) + problems}


def messages(text: str, start: str) -> list[str]:
    """Problems in the messages: a traceback, a line that isn't a message, or one that is too long."""
    lines = text.splitlines()
    if "Traceback" in text:
        return [f"a traceback: {lines[-1][:200]}"]
    wrong = [line for line in lines if not line.startswith(start) or len(line) > LONGEST or not line.isprintable()]
    return [f"not a message: {line[:200]!r}" for line in wrong]


def slow(seconds: float) -> list[str]:
    """A problem, if the time is too long for one file."""
    return [f"one file took {seconds:.1f} seconds"] if seconds > SLOW else []


def descriptors(process: int) -> int:
    """Open files of a process."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def resident(process: int) -> float:
    """Resident memory in megabytes."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
