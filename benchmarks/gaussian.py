"""PSNR of a denoiser on a folder of clean test images, by the protocol of the Gaussian denoising papers.

    python benchmarks/gaussian.py --data .../CBSD68 --model denoise

Writes benchmarks/results/gaussian-SET-MODEL-CONTEXT.json: one row an image, and the means.
"""

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from rich.progress import track

from facts import write
from kbnet import Restorer
from kbnet.data import decode, list_photos
from kbnet.metrics import gaussian_scores
from kbnet.models import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean images")
    parser.add_argument("--model", default="denoise", help="shipped model, task or weights file")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--context", default="auto", choices=["auto", "global", "local", "tile"])
    parser.add_argument("--tile", type=int, default=0, help="0 for the full frame, as the protocol wants")
    parser.add_argument("--ensemble", action="store_true")
    parser.add_argument("--name", help="of the results file")
    options = parser.parse_args()

    weights = resolve(options.model)
    restorer = Restorer.from_pretrained(
        options.model, tile=options.tile, context=options.context, ensemble=options.ensemble
    )
    paths = list_photos(options.data)
    channels = restorer.network.config.channels
    photos = [decode(path, channels) for path in paths]
    megapixels = sum(photo.shape[0] * photo.shape[1] for photo in photos) / 1e6
    rows: list[dict[str, object]] = [{"image": path.name} for path in paths]
    means, started = {}, time.perf_counter()
    for sigma in options.sigma:
        scores = gaussian_scores(restorer, photos, sigma)
        pairs = list(track(scores, f"sigma {sigma:g}", len(photos)))
        for row, (before, after) in zip(rows, pairs, strict=True):
            row[f"sigma {sigma:g}"] = {"before": round(before, 4), "after": round(after, 4)}
        means[f"sigma {sigma:g}"] = round(float(np.mean([after for _, after in pairs])), 4)
    seconds = (time.perf_counter() - started) / megapixels / len(options.sigma)
    name = options.name or f"gaussian-{options.data.name}-{restorer.name}-{restorer.context}"
    path = write(
        name,
        {
            "set": options.data.name,
            "restorer": {**restorer.describe(), "model": Path(restorer.name).stem},
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "psnr": means,
            "seconds_per_megapixel": round(seconds, 3),
            "images": rows,
        },
    )
    print(f"{options.data.name}: {means}, {seconds:.2f} s a megapixel; {path}")


if __name__ == "__main__":
    main()
