"""Compare tiles with the full frame: largest difference, PSNR and time, by context and overlap.

    python benchmarks/tiles.py [--data FOLDER] [--model denoise] [--tile 256]
    python benchmarks/tiles.py --data LARGE_PHOTOS --tile auto --name tiles-large

Without --data, it uses scikit-image's photos of a quarter of a megapixel. Tiles of 256 pixels divide them into several
tiles; by default, they would fit into one. Noise has sigma 25; full frame and tiles use the same context. Writes
benchmarks/results/tiles.json, or the file given by --name.
"""

import argparse
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from facts import write
from kbnet import Restorer
from kbnet.data import decode, list_photos
from kbnet.metrics import noisy, psnr, to_uint8

SIGMA = 25
OVERLAPS = (16, 32, 64, 96, 128)
LARGE_OVERLAPS = (64, 128, 192, 256)


def photographs(folder: Path | None, limit: int) -> dict[str, NDArray[np.uint8]]:
    if folder is not None:
        return {path.name: decode(path, 3) for path in list_photos(folder)[:limit]}
    from skimage import data

    return {name: getattr(data, name)() for name in ("astronaut", "coffee", "chelsea")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of clean photos")
    parser.add_argument("--limit", type=int, default=8, help="maximum number of photos")
    parser.add_argument("--model", default="denoise", help="model, task or weights file")
    parser.add_argument("--tile", type=_side, default=256, help="tile size in pixels, or auto")
    parser.add_argument("--name", default="tiles", help="name of the results file")
    options = parser.parse_args()

    overlaps = LARGE_OVERLAPS if options.tile == "auto" else OVERLAPS
    photos = photographs(options.data, options.limit)
    rows: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for clean in track(list(photos.values()), "photographs"):
        image = noisy(clean, SIGMA)
        for context in ("tile", "global", "local"):
            whole = Restorer.from_pretrained(options.model, tile=0, context="local" if context == "local" else "global")
            full = _timed(whole, image)
            rows.setdefault((context, 0), []).append((0.0, psnr(to_uint8(full[0]), clean), full[1]))
            for overlap in overlaps:
                tiled = Restorer.from_pretrained(options.model, tile=options.tile, overlap=overlap, context=context)
                restored, seconds = _timed(tiled, image)
                largest = float(np.abs(restored - full[0]).max()) * 255
                rows.setdefault((context, overlap), []).append((largest, psnr(to_uint8(restored), clean), seconds))
    table = [_summary(context, overlap, found) for (context, overlap), found in rows.items()]
    path = write(options.name, {"tile": options.tile, "sigma": SIGMA, "photographs": len(photos), "rows": table})
    print(f"{'context':8} {'overlap':>7} {'largest difference /255':>24} {'PSNR':>7} {'time, plain tiles = 1':>22}")
    for row in table:
        plain = next(r for r in table if r["context"] == "tile" and r["overlap"] == row["overlap"])
        print(
            f"{row['context']:8} {row['overlap'] or 'full':>7} {row['largest_difference']:24.2f} {row['psnr']:7.2f} "
            f"{row['seconds'] / plain['seconds']:22.2f}"
        )
    print(path)


def _side(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else int(text)


def _timed(restorer: Restorer, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    start = time.perf_counter()
    restored = restorer(image)
    return restored, time.perf_counter() - start


def _summary(context: str, overlap: int, found: list[tuple[float, float, float]]) -> dict[str, Any]:
    differences, scores, seconds = zip(*found, strict=True)
    return {
        "context": context,
        "overlap": overlap,
        "largest_difference": round(max(differences), 3),
        "psnr": round(float(np.mean(scores)), 3),
        "seconds": round(sum(seconds), 3),
    }


if __name__ == "__main__":
    main()
