"""Add noise to a real photograph, restore it, and write the two side by side to demo/before-after.png.

Run by `make demo`. The photograph comes with scikit-image (CC0).
"""

import time
from pathlib import Path

import numpy as np
from skimage import data

import kbnet
from kbnet.imaging import Photo, write_photo
from kbnet.metrics import noisy, psnr, to_uint8

SIGMA = 25
FOLDER = Path("demo")


def main() -> None:
    clean = data.chelsea()
    degraded = to_uint8(noisy(clean, SIGMA))
    restorer = kbnet.Restorer.from_pretrained("denoise")
    restorer(degraded[:64, :64])  # the first call sets up threads and memory; it is not what is timed
    start = time.perf_counter()
    restored = restorer(degraded)
    seconds = time.perf_counter() - start

    FOLDER.mkdir(exist_ok=True)
    gap = np.full((clean.shape[0], 6, 3), 255, np.uint8)
    pictures = {
        "noisy.png": degraded,
        "restored.png": restored,
        "before-after.png": np.hstack([degraded, gap, restored]),
    }
    for name, pixels in pictures.items():
        write_photo(Photo(pixels), FOLDER / name, overwrite=True)

    megapixels = clean.shape[0] * clean.shape[1] / 1e6
    print(f"noise of sigma {SIGMA} on a {clean.shape[1]}x{clean.shape[0]} photograph, restored by {restorer.name}")
    print(f"PSNR before {psnr(degraded, clean):.2f} dB, after {psnr(restored, clean):.2f} dB")
    print(f"{seconds / megapixels:.2f} seconds per megapixel")
    print(f"look at {FOLDER / 'before-after.png'}")


if __name__ == "__main__":
    main()
