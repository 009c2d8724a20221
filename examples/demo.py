"""The script for `make demo`: restores a noisy photo and shows it next to its input.

Reads examples/noisy.jpg. Writes demo/restored.jpg and demo/before-after.jpg, and replaces those of earlier runs.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

EXAMPLES = Path(__file__).parent
FOLDER = Path("demo")


def psnr(image: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """The peak signal-to-noise ratio of two 8-bit images, in dB."""
    return 10 * math.log10(255**2 / float(np.mean(np.square(image.astype(np.float64) - reference))))


def main() -> None:
    """The demo."""
    photo = read_photo(EXAMPLES / "noisy.jpg")
    clean = read_photo(EXAMPLES / "clean.jpg").pixels
    restorer = kbnet.Restorer.from_pretrained("denoise")
    start = time.perf_counter()
    restored = restorer(photo.pixels)
    seconds = time.perf_counter() - start

    FOLDER.mkdir(exist_ok=True)
    write_photo(replace(photo, pixels=restored), FOLDER / "restored.jpg", overwrite=True)
    gap = np.full((photo.height, 6, 3), 255, np.uint8)
    side_by_side = np.hstack([photo.pixels, gap, restored])
    write_photo(Photo(side_by_side, format="jpeg"), FOLDER / "before-after.jpg", overwrite=True)

    before, after = psnr(photo.pixels, clean), psnr(restored, clean)
    print(f"Restored examples/noisy.jpg, {photo.width}x{photo.height} pixels, in {seconds:.1f} s")
    print(f"PSNR compared with the clean photo: {before:.1f} dB before, {after:.1f} dB after")
    print(f"Result:           {(FOLDER / 'restored.jpg').resolve()}")
    print(f"Before and after: {(FOLDER / 'before-after.jpg').resolve()}")


if __name__ == "__main__":
    main()
