"""A folder restored with Ray: one worker, two workers, and two of which one is killed; compared with a plain run.

    python benchmarks/ray_scaling.py [--pictures 500] [--side 384] [--model denoise]

All runs use one thread per worker, and so does the plain run. All results must exist and be equal to those of the plain
run, or nothing is written. Rates are for the time from the first to the last result; startup time (Ray, workers) is
reported separately. Writes benchmarks/results/ray.json.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facts import write
from kbnet import Restorer
from kbnet.distributed import Settings, plan_rows, restore_rows
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.jobs import plan_jobs, run_jobs
from kbnet.metrics import noisy, to_uint8

SIGMA = 25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--side", type=int, default=384, help="size of the square images, in pixels")
    parser.add_argument("--model", default="denoise", help="model, task or weights file")
    parser.add_argument("--name", default="ray", help="name of the results file")
    parser.add_argument("--results", type=Path, help="folder of the results file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make(folder / "in", options.pictures, options.side)
        runs = {"plain": _plain(folder, options.model)}
        for label, workers, kill in (("1 worker", 1, False), ("2 workers", 2, False), ("2 workers, 1 killed", 2, True)):
            print(f"{label} ...", flush=True)
            runs[label] = _ray(folder, label, options.model, workers, kill=kill)
    if wrong := [label for label, run in runs.items() if run["wrong"] or run["failed"]]:
        print(f"results are missing or differ from the plain run's: {', '.join(wrong)}; nothing is written")
        return 1
    rate = {label: run["pictures_an_hour"] for label, run in runs.items()}
    megapixels = options.side**2 / 1e6
    summary = {
        "scaling_efficiency_1_to_2": round(rate["2 workers"] / rate["1 worker"] / 2, 3),
        "overhead_of_1_worker": round(rate["plain"] / rate["1 worker"] - 1, 3),
        "megapixels_an_hour_a_core": round(rate["2 workers"] / 2 * megapixels),
    }
    results: dict[str, Any] = {"pictures": options.pictures, "side": options.side, "model": options.model, **summary}
    where = {} if options.results is None else {"folder": options.results}
    print(write(options.name, results | {"runs": runs}, **where))
    for label, run in runs.items():
        print(f"{label:20} {run['start']:6.1f} s to the first result, {run['pictures_an_hour']:8.0f} images per hour")
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()))
    return 0


def _make(folder: Path, count: int, side: int) -> None:
    """Noisy crops of scikit-image's photos."""
    from skimage import data

    photographs = [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea")]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        photo = photographs[number % len(photographs)]
        photo = np.pad(
            photo, [(0, max(0, side - photo.shape[0])), (0, max(0, side - photo.shape[1])), (0, 0)], "reflect"
        )
        y, x = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = np.ascontiguousarray(photo[y : y + side, x : x + side])
        write_photo(Photo(to_uint8(noisy(crop, SIGMA))), folder / f"{number:05}.png")


def _plain(folder: Path, model: str) -> dict[str, Any]:
    start = time.perf_counter()
    restorer = Restorer.from_pretrained(model)
    times, failed = [], 0
    for result in run_jobs(plan_jobs([folder / "in"], folder / "plain"), restorer):
        times.append(time.perf_counter() - start)
        failed += not result.ok
    return _summary(times, 1) | {"failed": failed, "wrong": 0}


def _ray(folder: Path, label: str, model: str, workers: int, *, kill: bool) -> dict[str, Any]:
    output = folder / label.replace(" ", "-")
    rows = plan_rows([str(folder / "in")], str(output))
    start = time.perf_counter()
    times, failed, killed = [], 0, 0
    for outcome in restore_rows(rows, Settings(model=model, workers=workers)):
        times.append(time.perf_counter() - start)
        failed += not outcome.ok
        if kill and not killed and len(times) >= len(rows) // 2:
            killed = outcome.worker
            os.kill(killed, signal.SIGKILL)
    expected = {path.name: read_photo(path).pixels for path in sorted((folder / "plain").iterdir())}
    found = {path.name for path in output.iterdir()}
    wrong = len(found ^ expected.keys())
    wrong += sum(
        not np.array_equal(read_photo(output / name).pixels, expected[name]) for name in found & expected.keys()
    )
    return _summary(times, workers) | {"failed": failed, "wrong": wrong, "killed": int(bool(killed))}


def _summary(times: list[float], workers: int) -> dict[str, Any]:
    """Count only results after each worker's first one, which includes loading the network."""
    counted = len(times) - workers
    seconds = times[-1] - times[workers - 1]
    return {
        "start": round(times[0], 2),
        "total": round(times[-1], 2),
        "pictures_an_hour": round(counted / seconds * 3600, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
