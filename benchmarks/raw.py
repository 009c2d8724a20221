"""Synthetic raw files at five ISO levels: denoised with kbnet before and after developing, OpenCV's NL-means and BM3D.

    python benchmarks/raw.py --data CBSD68 [--limit 12] [--crop 320]

Each photo becomes a scene-linear picture in Rec. 2020, then a Bayer mosaic with shot and read noise (variance = shot *
signal + read, for signals from 0 to 1), then a DNG, which LibRaw develops. PSNR is measured on the developed pictures,
against the development of the same mosaic without noise. "kbnet" removes the noise before developing, once with a noise
that it estimates, and once with the one that the DNG tells; "kbnet, developed" and the peers remove it afterwards. The
peers get the standard deviation of the noise of the developed picture. Writes benchmarks/results/raw.json.

    python benchmarks/raw.py --picture docs/tasks/raw.jpg

draws a crop of a photo as a raw file at ISO 6400: developed, then with the noise removed after and before developing.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import data

from facts import RESULTS, write
from kbnet import Restorer
from kbnet.evaluation.peers import PEERS, Peer
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.imaging.linear import decode, encode
from kbnet.inference.developing import restore_raw
from kbnet.metrics import psnr
from kbnet.models import find

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


def floats(photo: Photo) -> NDArray[np.float32]:
    """The pixels from 0 to 1."""
    return (photo.pixels / np.float32(65535)).astype(np.float32)


def restored(photo: Photo, restorer: Restorer) -> NDArray[np.float32]:
    """The noise removed before developing."""
    pixels = restore_raw(restorer, photo, lambda done, total: None)
    assert pixels is not None  # these files have a Bayer pattern
    return floats(replace(photo, pixels=pixels))


def scores_of(
    scene: NDArray[np.float64], shot: float, read: float, seed: int, restorer: Restorer, peers: list[Peer]
) -> dict[str, float]:
    """PSNR of everything that is compared."""
    clean = floats(read_photo(dng(scene)))
    telling, silent = (read_photo(dng(scene, shot=shot, read=read, seed=seed, told=told)) for told in (True, False))
    noisy = floats(silent)
    sigma = 255 * float(np.std(noisy - clean))
    results = {
        "developed": noisy,
        "kbnet, developed": restorer(noisy),
        "kbnet": restored(silent, restorer),
        "kbnet, noise told": restored(telling, restorer),
    }
    results |= {peer.name: np.asarray(peer.denoise(noisy, sigma), np.float32) for peer in peers}
    return {name: psnr(np.clip(result, 0, 1), clean, peak=1.0) for name, result in results.items()}


def clean_scores(paths: list[Path], crop: int, restorer: Restorer) -> dict[str, Any]:
    """PSNR of the results of files without noise, which no sensor makes: told so, or estimated."""
    found: dict[str, Any] = {"photos": len(paths)}
    for what, noise in (("told", {"shot": 1e-6, "told": True}), ("estimated", {})):
        photos = (read_photo(dng(scene_of(path, crop), **noise)) for path in paths)
        scores = [psnr(restored(photo, restorer), floats(photo), peak=1.0) for photo in photos]
        found[what] = {"mean": round(float(np.mean(scores)), 2), "lowest": round(min(scores), 2)}
    return found


def draw(path: Path, restorer: Restorer) -> None:
    """Write a 1:1 crop, in sRGB."""
    clean = data.coffee()[:360, 80:560].astype(np.float32) / 255
    scene = decode(clean).astype(np.float64) @ (TO_REC_2020 @ SRGB_TO_XYZ).T
    photo = read_photo(dng(scene, shot=ISO[6400][0], read=ISO[6400][1], seed=1))
    pictures = [floats(photo), restorer(floats(photo)), restored(photo, restorer)]
    to_srgb = np.linalg.inv(TO_REC_2020 @ SRGB_TO_XYZ).T
    shown = [encode(np.clip(decode(one) @ to_srgb, 0, 1).astype(np.float32))[100:320, 130:350] for one in pictures]
    gap = np.ones((len(shown[0]), 6, 3), np.float32)
    row = np.concatenate([shown[0], gap, shown[1], gap, shown[2]], axis=1)
    write_photo(Photo(np.rint(row * 255).astype(np.uint8), format="jpeg"), path, overwrite=True, quality=93)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of photos")
    parser.add_argument("--picture", type=Path, help="only draw this picture")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--crop", type=int, default=320)
    parser.add_argument("--peers", nargs="*", default=["opencv-nl-means", "bm3d"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    restorer = Restorer.from_pretrained("denoise", device="cpu")
    if arguments.picture is not None:
        draw(arguments.picture, restorer)
        return 0
    if arguments.data is None:
        parser.error("expected --data FOLDER, or --picture FILE")
    peers = [PEERS[name] for name in arguments.peers]
    every = sorted(path for path in arguments.data.iterdir() if path.suffix in (".png", ".jpg"))
    paths = every[: arguments.limit]
    rows: list[dict[str, Any]] = []
    for iso, (shot, read) in ISO.items():
        scores: dict[str, list[float]] = {}
        for seed, path in enumerate(paths):
            for name, score in scores_of(scene_of(path, arguments.crop), shot, read, seed, restorer, peers).items():
                scores.setdefault(name, []).append(score)
        means = {name: round(float(np.mean(values)), 2) for name, values in scores.items()}
        rows.append({"iso": iso, "shot": shot, "read": read, "psnr": means})
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    found = {
        "sha256": find("denoise-raw").sha256,  # type: ignore[union-attr]  # it is included
        "photos": len(paths),
        "crop": arguments.crop,
        "rows": rows,
        "clean": clean_scores(every, arguments.crop, restorer),
    }
    write("raw", found, arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
