"""Synthetic raw files at five ISO levels: developed and denoised with kbnet, OpenCV's NL-means and BM3D.

    python benchmarks/raw.py --data CBSD68 [--limit 4] [--crop 192]

Each photo becomes a scene-linear picture in Rec. 2020, then a Bayer mosaic with shot and read noise (variance = shot *
signal + read, for signals from 0 to 1), then a DNG, which LibRaw develops. PSNR is measured on the developed pictures,
against the development of the same mosaic without noise. The peers get the standard deviation of the noise of the
developed picture, which kbnet doesn't get. Writes benchmarks/results/raw.json.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facts import RESULTS, write
from kbnet import Restorer
from kbnet.evaluation.peers import PEERS
from kbnet.imaging import read_photo
from kbnet.imaging.linear import decode
from kbnet.metrics import psnr

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from raw_files import TO_REC_2020, dng  # the same files as in the tests

ISO = {100: (2e-4, 1e-7), 400: (8e-4, 1.2e-6), 1600: (3.2e-3, 1.6e-5), 6400: (1.28e-2, 2.2e-4), 12800: (2.56e-2, 8e-4)}
"""Shot and read noise by sensitivity, in the range of cameras with a small sensor."""

SRGB_TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                        [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def scene_of(path: Path, crop: int) -> NDArray[np.float64]:
    """The middle of a photo as linear Rec. 2020."""
    pixels = read_photo(path).pixels
    top, left = ((side - crop) // 4 * 2 for side in pixels.shape[:2])
    middle = pixels[top : top + crop, left : left + crop].astype(np.float32) / 255
    linear: NDArray[np.float64] = decode(middle).astype(np.float64) @ (TO_REC_2020 @ SRGB_TO_XYZ).T
    return linear


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--peers", nargs="*", default=["opencv-nl-means", "bm3d"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained("denoise", device="cpu")
    peers = [PEERS[name] for name in arguments.peers]
    paths = sorted(path for path in arguments.data.iterdir() if path.suffix in (".png", ".jpg"))[: arguments.limit]
    rows: list[dict[str, Any]] = []
    for iso, (shot, read) in ISO.items():
        scores: dict[str, list[float]] = {}
        for seed, path in enumerate(paths):
            scene = scene_of(path, arguments.crop)
            clean, noisy = (
                read_photo(dng(scene, shot=s, read=r, seed=seed)).pixels.astype(np.float32) / 65535
                for s, r in ((0.0, 0.0), (shot, read))
            )
            sigma = 255 * float(np.std(noisy - clean))
            results = {"developed": noisy, "kbnet": restorer(noisy)}
            results |= {peer.name: np.asarray(peer.denoise(noisy, sigma), np.float32) for peer in peers}
            for name, result in results.items():
                scores.setdefault(name, []).append(psnr(np.clip(result, 0, 1), clean, peak=1.0))
        rows.append(
            {
                "iso": iso,
                "shot": shot,
                "read": read,
                "psnr": {n: round(float(np.mean(v)), 2) for n, v in scores.items()},
            }
        )
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    write("raw", {"photos": len(paths), "crop": arguments.crop, "rows": rows}, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
