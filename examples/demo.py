"""Degrade a real photograph by noise, rain and blur, restore each, and write before and after side by side.

Run by `make demo`. The photograph comes with scikit-image (CC0). Pictures go to demo/: before and after of each
task, and all of them in demo/before-after.png.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

import kbnet
from kbnet.degradations import create_degradation
from kbnet.imaging import Photo, write_photo
from kbnet.metrics import noisy, psnr, to_uint8

SIGMA = 25
FOLDER = Path("demo")

Pixels = NDArray[np.uint8]


def degraded(clean: Pixels, kind: str, seed: int, **fields: object) -> Pixels:
    """The photo as the degradation of a recipe makes it."""
    worse = create_degradation(kind, **fields)
    image = torch.from_numpy(clean).permute(2, 0, 1).float() / 255
    return to_uint8(worse(image, torch.Generator().manual_seed(seed)).permute(1, 2, 0).numpy())


BEFORE: dict[str, Callable[[Pixels], Pixels]] = {
    "denoise-gaussian": lambda clean: to_uint8(noisy(clean, SIGMA)),
    "denoise": lambda clean: degraded(clean, "camera-noise", 3, shot=(0.01, 0.01), clean_share=0.0),
    "derain": lambda clean: degraded(clean, "rain", 5, clean_share=0.0),
    "deblur": lambda clean: degraded(clean, "defocus", 1, clean_share=0.0),
}


def main() -> None:
    clean = data.chelsea()
    FOLDER.mkdir(exist_ok=True)
    rows = []
    for task, degrade in BEFORE.items():
        if not any(model.default for model in kbnet.list_models(task)):
            continue
        before = degrade(clean)
        restorer = kbnet.Restorer.from_pretrained(task)
        restorer(before[:64, :64])  # the first call sets up threads and memory; it is not what is timed
        start = time.perf_counter()
        after = restorer(before)
        seconds = time.perf_counter() - start
        write(f"{task}-before.png", before)
        write(f"{task}-after.png", after)
        rows.append(np.hstack([before, np.full((len(clean), 6, 3), 255, np.uint8), after]))
        rate = seconds / (clean.shape[0] * clean.shape[1] / 1e6)
        print(
            f"{task}: {psnr(before, clean):.2f} dB before, {psnr(after, clean):.2f} dB after, {rate:.2f} s a megapixel"
        )
    gap = np.full((6, rows[0].shape[1], 3), 255, np.uint8)
    write("before-after.png", np.vstack([part for row in rows for part in (row, gap)][:-1]))
    print(f"look at {FOLDER / 'before-after.png'}")


def write(name: str, pixels: Pixels) -> None:
    """A picture in the demo's folder, in the place of that of an earlier run."""
    write_photo(Photo(pixels), FOLDER / name, overwrite=True)


if __name__ == "__main__":
    main()
