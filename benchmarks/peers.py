"""Compare networks and other denoisers on folders of clean test images: PSNR and seconds per megapixel.

    python benchmarks/peers.py --data .../CBSD68 .../Set12 --sigma 15 25 50 --models denoise-gaussian --peers all
    python benchmarks/peers.py --tune      # how strengths without a documented rule were chosen

Uses the Gaussian protocol. Writes benchmarks/results/peers.json (one row per image) and docs/peers.png. A killed run
resumes; rows with other settings, versions, weights or threads are measured again. The other denoisers need the `peers`
extra. BM3D's package is for non-commercial use only, and takes about a minute per megapixel.
"""

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from facts import RESULTS, facts
from kbnet.data import decode, list_photos
from kbnet.evaluation import peers as peers_module
from kbnet.evaluation.comparison import Comparison, peer_method, restorer_method
from kbnet.evaluation.peers import PEERS, find_peers
from kbnet.evaluation.plots import quality_against_time
from kbnet.imaging import read_photo
from kbnet.metrics import noisy, psnr, to_uint8

DOCS = Path(__file__).parents[1] / "docs"
MACHINE = ("processor", "cores", "threads", "system")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="folders of clean images, one per set")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--models", nargs="*", default=["denoise-gaussian"], help="models, tasks or weights files")
    parser.add_argument("--peers", nargs="*", default=["all"], choices=["all", *PEERS])
    parser.add_argument("--limit", type=int, help="images of each set, for a quick look")
    parser.add_argument("--results", type=Path, default=RESULTS / "peers.json")
    parser.add_argument("--plot", type=Path, default=DOCS / "peers.png", help="the picture")
    parser.add_argument("--plot-only", action="store_true", help="only draw existing results")
    parser.add_argument(
        "--tune", action="store_true", help="print PSNR by strength for denoisers without a documented rule"
    )
    options = parser.parse_args()
    if options.tune:
        tune()
        return
    if not options.plot_only:
        measure(options)
    results = json.loads(options.results.read_text(encoding="utf-8"))
    about = results["facts"]
    quality_against_time(results, options.plot, f"{about['processor']}, {about['threads']} threads")
    show(results)
    print(options.results, options.plot)


def measure(options: argparse.Namespace) -> None:
    """Measure missing rows, with a progress bar."""
    sets = {folder.name: load(folder, options.limit) for folder in options.data}
    about = facts()
    machine = {key: about[key] for key in MACHINE}
    methods = [restorer_method(name, machine) for name in options.models]
    methods += [peer_method(peer, machine) for peer in find_peers(options.peers)]
    comparison = Comparison(options.results, sets, {"facts": about})
    count = len(comparison.missing(methods, options.sigma))
    for _ in track(comparison.run(methods, options.sigma), "measuring", count):
        pass


def load(folder: Path, limit: int | None) -> dict[str, Any]:
    """Images by name; a set with only gray images stays gray."""
    paths = list_photos(folder)[:limit]
    channels = 3 if any(read_photo(path).pixels.ndim == 3 for path in paths) else 1
    return {path.name: decode(path, channels) for path in paths}


def show(results: dict[str, Any]) -> None:
    """Print one row per method, one column per set and sigma."""
    summary = results["summary"]
    columns = list(dict.fromkeys((row["set"], row["sigma"]) for row in summary))
    table = Table("method", title="PSNR in dB, and seconds per megapixel (CPU seconds of all threads)")
    for name, sigma in columns:
        table.add_column(f"{name} {sigma:g}", justify="right")
    for method, about in results["methods"].items():
        found = {(row["set"], row["sigma"]): row for row in summary if row["method"] == method}
        cells = [
            f"{row['psnr']:.2f}\n{row['seconds']:.3g} ({row['cpu_seconds']:.3g})" if row else "–"
            for row in map(found.get, columns)
        ]
        table.add_row(about["label"], *cells)
    Console(width=max(100, 30 + 18 * len(columns))).print(table)


def tune() -> None:
    """Print the mean PSNR of scikit-image's photos, none of them in a test set, over multiples of sigma."""
    from skimage import data

    photos = [data.astronaut()[::2, ::2], data.coffee()[:256, :256], data.chelsea()[:256, :256], data.rocket()[:256]]
    gray = [np.rint(photo @ (0.299, 0.587, 0.114)).astype(np.uint8) for photo in photos]
    sigma = 25.0
    nl_means, variation = PEERS["opencv-nl-means"].denoise, PEERS["total-variation"].denoise
    for multiple in np.arange(5, 16) / 10:
        with (
            patch.object(peers_module, "OPENCV_STRENGTH", {2: multiple, 3: multiple}),
            patch.object(peers_module, "TOTAL_VARIATION_WEIGHT", multiple),
        ):
            figures = [
                f"{name} {kind} {mean_psnr(denoise, chosen, sigma):.2f}"
                for (name, denoise), (kind, chosen) in product(
                    (("OpenCV non-local means", nl_means), ("total variation", variation)),
                    (("colour", photos), ("gray", gray)),
                )
            ]
        print(f"{multiple:.1f} sigma: {', '.join(figures)}", flush=True)


def mean_psnr(denoise: Callable[..., Any], photos: list[Any], sigma: float) -> float:
    """Mean PSNR with the Gaussian protocol."""
    return float(np.mean([psnr(to_uint8(denoise(noisy(photo, sigma), sigma)), photo) for photo in photos]))


if __name__ == "__main__":
    main()
