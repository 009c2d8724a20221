"""Whole networks in the engine, compared with block by block: wall time, CPU time and memory.

    python benchmarks/engine.py [--quick]

Both alternate in one process, with the included compact denoiser and its context. Fails if the results differ. Writes
benchmarks/results/engine.json. Takes about a minute on two idle cores; times on a busy machine are meaningless.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import kbnet
from facts import RESULTS, write
from kbnet.nn import Local, compiled
from timing import agree, peak_bytes

MODEL, WINDOW, TOLERANCE = "kbnet-nano-denoise-gaussian", 128, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    network = kbnet.load_model(MODEL).to(memory_format=torch.channels_last)  # as in Restorer
    rows = []
    for side in (64,) if options.quick else (256, 512, 1024):
        for threads in (1,) if options.quick else (1, torch.get_num_threads()):
            rows.append(row(network, side, threads, repeats=2 if options.quick else 7))
            print(rows[-1], flush=True)
    write("engine", {"model": MODEL, "rows": rows}, options.results)


def row(network: kbnet.models.Network, side: int, threads: int, repeats: int) -> dict[str, Any]:
    """Medians of interleaved runs."""
    torch.set_num_threads(threads)
    image = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)

    def engine() -> Tensor:
        with torch.inference_mode():
            return network(image, Local(WINDOW))

    def blocks() -> Tensor:
        with mock.patch.object(compiled, "refuses", return_value="to compare"):
            return engine()

    difference = agree("engine", engine(), blocks(), TOLERANCE)
    calls: dict[str, Callable[[], Tensor]] = {"blocks": blocks, "engine": engine}
    walls: dict[str, list[float]] = {name: [] for name in calls}
    cpus: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    wall, cpu = ({name: statistics.median(values) for name, values in each.items()} for each in (walls, cpus))
    return {
        "side": side,
        "threads": threads,
        "seconds": {name: round(value, 4) for name, value in wall.items()},
        "processor seconds": {name: round(value, 4) for name, value in cpu.items()},
        "times as fast": round(wall["blocks"] / wall["engine"], 2),
        "peak bytes": {name: peak_bytes(call) for name, call in calls.items()},
        "difference": difference,
    }


if __name__ == "__main__":
    main()
