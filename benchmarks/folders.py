"""The cost of reading and writing folders: pixels per second of `run_jobs`, compared with the network alone.

    python benchmarks/folders.py

The network alone restores the same decoded images with the same tiles. Both alternate, and every result must be the
same. Writes benchmarks/results/folders.json.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import kbnet
from facts import RESULTS, write
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.jobs import plan_jobs, run_jobs

COUNT, SIDE, ROUNDS = 12, 768, 3
FORMATS = ("jpeg", "png")
GOAL = 0.9


def photograph(seed: int, side: int) -> np.ndarray:
    """Soft shapes and noise, which compress similarly to photos."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in rng.uniform(-6, 6, (3, 2))]
    pixels = 128 + 80 * np.stack(waves, axis=2) + rng.normal(0, 12, (side, side, 3))
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small images, for tests")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    count, side, rounds = (3, 64, 1) if options.quick else (COUNT, SIDE, ROUNDS)
    restorer = kbnet.Restorer.from_pretrained("denoise", device="cpu")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for format in FORMATS:
            source = Path(name) / format
            source.mkdir()
            for seed in range(count):
                write_photo(Photo(photograph(seed, side)), source / f"{seed:02}.{format}")
            pixels = [read_photo(path).pixels for path in sorted(source.iterdir())]
            restorer(pixels[0])  # warm up
            bare, whole = [], []
            for turn in range(rounds):
                start = time.perf_counter()
                restored = [restorer(one) for one in pixels]
                middle = time.perf_counter()
                target = Path(name) / f"{format}-{turn}"
                results = list(run_jobs(plan_jobs([source], target), restorer))
                whole.append(time.perf_counter() - middle)
                bare.append(middle - start)
                if not all(result.ok for result in results):
                    print(results, file=sys.stderr)
                    return 1
                if format == "png":
                    for path, one in zip(sorted(target.iterdir()), restored, strict=True):
                        if not np.array_equal(read_photo(path).pixels, one):
                            print(f"{path.name} differs from the result of the network alone", file=sys.stderr)
                            return 1
            megapixels = count * side * side / 1e6
            row = {
                "format": format,
                "pictures": count,
                "side": side,
                "network_megapixels_a_second": round(megapixels / statistics.median(bare), 3),
                "folder_megapixels_a_second": round(megapixels / statistics.median(whole), 3),
                "share": round(statistics.median(b / w for b, w in zip(bare, whole, strict=True)), 3),
            }
            print(row)
            rows.append(row)
    print(write("folders", {"model": restorer.name, "goal": GOAL, "rows": rows}, options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
