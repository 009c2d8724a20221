"""Restore an image larger than memory by rows: peak memory, time, and its centre compared with an in-memory run.

    python benchmarks/streaming.py                          # 400 megapixels: ten minutes on 2 cores, 4 GB of disk
    python benchmarks/streaming.py --side 1500 --name try   # a small image, as a test

The image consists of enlarged scikit-image photos, side by side, with noise of sigma 25. The command runs in a separate
process. With a --folder, an interrupted run resumes. Refuses results if memory or difference exceed the
limits. Writes benchmarks/results/streaming.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from skimage import data

from facts import write
from kbnet import Restorer

LIMIT_BYTES = 1.2e9
AROUND = 320  # pixels around the compared centre: more than the network's receptive field and windows
SIGMA = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="size of the square image, in pixels")
    parser.add_argument("--model", default="denoise")
    parser.add_argument("--folder", type=Path, help="folder for the images, which is kept; by default, a temporary one")
    parser.add_argument("--name", default="streaming", help="name of the results file")
    options = parser.parse_args()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        run(options.side, options.model, options.folder, options.name)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(options.side, options.model, Path(folder), options.name)


def run(side: int, model: str, folder: Path, name: str) -> None:
    """Make the image, restore it, compare its centre, and write the results."""
    source, target = folder / f"noisy-{side}.tif", folder / f"restored-{side}.tif"
    if not source.exists():
        make(source, side)
    earlier = target.with_name(f".{target.name}.kbnet-rows").exists()
    start = time.perf_counter()
    peak = restore(source, target, model)
    seconds = time.perf_counter() - start
    difference = centre_difference(source, target, model, side)
    row = {
        "megapixels": side * side / 1e6,
        "model": model,
        "peak_megabytes": round(peak / 1e6),
        "limit_megabytes": LIMIT_BYTES / 1e6,
        "seconds": round(seconds, 1),
        "seconds_cover_all": not earlier,
        "centre_largest_difference": difference,
        "result_bytes": target.stat().st_size,
    }
    print(json.dumps(row))
    if peak > LIMIT_BYTES or difference > 1:
        raise SystemExit(f"over the limit: {peak / 1e6:.0f} MB, a difference of {difference} levels")
    print(write(name, row))


def make(path: Path, side: int) -> None:
    """Write a noisy square image by rows."""
    photos = [
        pyvips.Image.new_from_array(getattr(data, kind)()) for kind in ("astronaut", "coffee", "chelsea", "rocket")
    ]
    tiles = [photo.thumbnail_image(1000, height=1000, crop="centre", size="both") for photo in photos]
    block = pyvips.Image.arrayjoin(tiles, across=2)
    count = -(-side // block.width)
    clean = block.replicate(count, count).crop(0, 0, side, side)
    # far apart: with adjacent seeds, libvips makes the same noise, shifted by one pixel
    bands = [pyvips.Image.gaussnoise(side, side, sigma=SIGMA, mean=0, seed=seed) for seed in (1, 99_991, 54_321)]
    noisy = (clean + bands[0].bandjoin(bands[1:])).rint().cast("uchar").copy(interpretation="srgb")
    partial = path.with_suffix(".part.tif")
    noisy.tiffsave(str(partial), tile=True, bigtiff=True)
    partial.rename(path)


def restore(source: Path, target: Path, model: str) -> int:
    """Maximum resident size of `kbnet restore --stream`, bytes."""
    command = [sys.executable, "-m", "kbnet", "restore", str(source), "-o", str(target), "--model", model]
    command += ["--context", "local"]  # only then is the centre independent of the rest
    with subprocess.Popen([*command, "--stream", "--overwrite"]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"kbnet restore failed with exit code {process.returncode}")
    return usage.ru_maxrss * 1024


def centre_difference(source: Path, target: Path, model: str, side: int) -> int:
    """Largest difference, in levels of 255, of the centre from the same crop restored in memory."""
    inner = min(512, side - 2 * AROUND)
    # a multiple of 16 from the corner, so that the crop is downsampled on the image's grid
    corner = (side - inner) // 2 // 16 * 16

    def crop(path: Path, left: int, length: int) -> Any:
        return pyvips.Image.new_from_file(str(path)).crop(left, left, length, length).numpy()

    around = crop(source, corner - AROUND, inner + 2 * AROUND)
    expected = Restorer.from_pretrained(model, context="local")(np.ascontiguousarray(around))[
        AROUND:-AROUND, AROUND:-AROUND
    ]
    return int(np.abs(crop(target, corner, inner).astype(int) - expected).max())


if __name__ == "__main__":
    main()
