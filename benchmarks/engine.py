"""The engine against what it replaces and what else runs such networks: wall time, processor time and memory.

    python benchmarks/engine.py [--baseline PYTHON] [--only TEXT] [--quick]

Every contestant is a process of its own (contestant.py). Those of a row take turns, one run each, so that a slow phase
affects all of them; medians count. Results of the same network must agree, or nothing is written. `--baseline` is the
interpreter of an environment with the kbnet to compare with: published figures use the state of 2026-11-27 (1dda1b1).
ONNX Runtime, OpenVINO and Open Image Denoise take part if they are installed. Writes benchmarks/results/engine.json.
Takes about 12 minutes on two idle cores; times on a busy machine are meaningless.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kbnet
from facts import RESULTS, processor, write
from kbnet.nn.checkpoint import save_file

NETWORKS = {"compact": "kbnet-nano", "KBNet-S": "kbnet-s-real"}
LIMIT = {"float32": 1, "bfloat16": 4}  # of 255, by which results of the same network may differ
RELATIVE = {"float32": 1e-4, "bfloat16": 2e-2}  # the same for the operator, of the largest value
OPERATORS = {  # B, C, H, W; N; G
    "KBNet-S, first level": ((1, 64, 256, 256), 32, 4),
    "KBNet-S, third level": ((1, 256, 64, 64), 32, 4),
    "compact, first level": ((1, 16, 512, 512), 8, 4),
}


@dataclass
class Contestant:
    """A process that computes one row's work in one way."""

    name: str
    specification: dict[str, Any]
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    process: Any = None
    runs: list[dict[str, float]] = field(default_factory=list)

    def start(self, place: Path, threads: int) -> None:
        """Start it, and wait for its first run."""
        wanted = {"OMP_NUM_THREADS": str(threads), **self.environment}
        environment = os.environ | wanted
        if self.python != sys.executable:
            environment.pop("PYTHONPATH", None)
        self.specification |= {"result": str(place / f"{self.name}.npy"), "threads": threads}
        command = [self.python, str(Path(__file__).with_name("contestant.py")), json.dumps(self.specification)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, cwd=place)
        self.read()

    def read(self) -> dict[str, float]:
        """Its next line."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}")
        return dict(json.loads(line))

    def run(self) -> None:
        """One run."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.runs.append(self.read())

    def end(self) -> dict[str, Any]:
        """Its figures."""
        self.process.stdin.close()
        peak = self.read()["peak"]
        self.process.wait()
        middle = {key: statistics.median(run[key] for run in self.runs) for key in ("wall", "processor")}
        return {
            "seconds": round(middle["wall"], 4),
            "processor_seconds": round(middle["processor"], 4),
            "peak_megabytes": round(peak / 1e6),
        }


@dataclass
class Row:
    """Work that several contestants do."""

    what: str
    threads: int
    contestants: list[Contestant]
    repeats: int = 7

    def measure(self, place: Path) -> dict[str, Any]:
        """Figures of every contestant, in turns."""
        for contestant in self.contestants:
            contestant.start(place, self.threads)
        self._compare(place)
        for _ in range(self.repeats):
            for contestant in self.contestants:
                contestant.run()
        figures = {contestant.name: contestant.end() for contestant in self.contestants}
        return {"what": self.what, "threads": self.threads, "processor": processor(), "contestants": figures}

    def _compare(self, place: Path) -> None:
        """End the program if a contestant computes something else than the first one."""
        expected = np.load(place / f"{self.contestants[0].name}.npy").astype(np.float64)
        for contestant in self.contestants[1:]:
            about = contestant.specification
            if about["kind"] == "oidn":
                continue  # another network
            found = np.load(place / f"{contestant.name}.npy").astype(np.float64)
            limit = LIMIT[about["dtype"]] if about["kind"] == "restorer" else RELATIVE[about["dtype"]] * expected.max()
            if not np.abs(found - expected).max() <= limit:
                raise SystemExit(f"{self.what}: {contestant.name} computes something else; nothing is written")


def rows(place: Path, baseline: str | None, *, quick: bool) -> Iterator[Row]:
    """All rows, with the files that they need in a folder."""
    for name, preset in NETWORKS.items():
        if quick and name != "compact":
            continue
        path = place / f"{preset}.safetensors"
        save_file(_network(preset), path)
        graphs = _graphs(path) if name == "compact" else {}
        for side in (64,) if quick else (256, 1024):
            image = _image(place, side)
            for threads in (1,) if quick or side == 256 else (1, 2):
                if name == "KBNet-S" and threads == 1 and side == 1024:
                    continue
                plain = {"kind": "restorer", "network": str(path), "image": str(image)}
                plain |= {"dtype": "float32", "context": "global"}
                found = _restorers(plain, baseline, by_bfloat16=name == "KBNet-S")
                if side == 1024 or quick:
                    of_input = plain | {"context": "tile"}  # as exported: averages over the whole input
                    found += [Contestant(n, {**of_input, "network": str(graph)}) for n, graph in graphs.items()]
                    found += _oidn(image) if name == "compact" else []
                yield Row(f"{name}, {side} x {side}", threads, found, 2 if quick else 3 if name == "KBNet-S" else 7)
    for name, (shape, bases, group) in OPERATORS.items():
        for dtype in ("float32",) if quick else ("float32", "bfloat16"):
            about = {"kind": "operator", "shape": shape, "bases": bases, "group": group, "dtype": dtype}
            found = [Contestant("this", dict(about))]
            found += [Contestant("baseline", dict(about), baseline)] if baseline else []
            yield Row(f"operator, {name}, {dtype}", 2, found, 2 if quick else 15)


def _restorers(plain: dict[str, Any], baseline: str | None, *, by_bfloat16: bool) -> list[Contestant]:
    """This kbnet and the baseline, in each type or on each instruction set."""
    found = [Contestant("this", dict(plain))]
    found += [Contestant("baseline", dict(plain), baseline)] if baseline else []
    rounded = plain | {"dtype": "bfloat16"}
    found.append(Contestant("this, bfloat16", dict(rounded)))
    if by_bfloat16:
        return found + ([Contestant("baseline, bfloat16", dict(rounded), baseline)] if baseline else [])
    forced = {"KBNET_INSTRUCTION_SET": "avx2"}
    found.append(Contestant("this, avx2", dict(plain), environment=forced))
    return found + ([Contestant("baseline, avx2", dict(plain), baseline, forced)] if baseline else [])


def _graphs(path: Path) -> dict[str, Path]:
    """The same network for other runtimes."""
    found = {}
    for name, module, suffix in (("ONNX Runtime", "onnxruntime", ".onnx"), ("OpenVINO", "openvino", ".xml")):
        if find_spec(module):
            found[name] = path.with_suffix(suffix)
            command = [sys.executable, "-m", "kbnet", "export", str(path), "-o", str(found[name])]
            exported = subprocess.run(command, capture_output=True, text=True)
            if exported.returncode:
                raise SystemExit(exported.stderr)
    return found


def _oidn(image: Path) -> list[Contestant]:
    if not find_spec("pyoidn"):
        return []
    plain = {"kind": "oidn", "image": str(image), "dtype": "float32"}
    return [Contestant(f"OIDN, {quality}", {**plain, "quality": quality}) for quality in ("fast", "balanced")]


def _network(preset: str) -> kbnet.models.Network:
    torch.manual_seed(0)
    network = kbnet.create_model(preset)
    with torch.no_grad():  # scales start near zero, which would hide errors of inner layers
        for name, parameter in network.named_parameters():
            if name.endswith("scale"):
                parameter.fill_(0.1)
    return network


def _image(place: Path, side: int) -> Path:
    path = place / f"{side}.npy"
    noise = np.random.default_rng(0).integers(-20, 21, (side, side, 3))
    np.save(path, (np.linspace(40, 200, side)[None, :, None] + noise).astype(np.uint8))
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", metavar="PYTHON", help="interpreter of another environment with kbnet")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only rows whose name contains this")
    parser.add_argument("--quick", action="store_true", help="one small size, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Path(folder), options.baseline, quick=options.quick):
            if options.only in row.what:
                measured.append(row.measure(Path(folder)))
                print(json.dumps(measured[-1], indent=1), flush=True)
    path = options.results / "engine.json"
    if options.only and path.exists():  # the other rows stay
        new = {(row["what"], row["threads"]): row for row in measured}
        kept = json.loads(path.read_text(encoding="utf-8"))["rows"]
        measured = [new.pop((row["what"], row["threads"]), row) for row in kept] + list(new.values())
    print(write("engine", {"rows": measured}, options.results))


if __name__ == "__main__":
    main()
