"""Tiny data sets in the layouts that they are published in, and what arithmetic says of them."""

import numpy as np
from scipy.io import savemat

from kbnet.imaging import Photo, write_photo


def texture(height=40, width=48, channels=3, seed=0, dtype=np.uint8):
    """Smooth random pixels in the middle of the range, [H,W] or [H,W,3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    planes = []
    for _ in range(channels):
        down, across, phase = rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4), rng.uniform(0, 6)
        planes.append(0.5 + 0.15 * np.sin(down * rows + phase) + 0.15 * np.cos(across * columns - phase))
    image = np.rint(np.stack(planes, axis=2) * np.iinfo(dtype).max).astype(dtype)
    return image[..., 0] if channels == 1 else image


def save(path, pixels):
    """Write a picture in a folder made if needed, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(Photo(np.ascontiguousarray(pixels)), path, overwrite=True)
    return path


def save_pairs(
    folder, count=3, difference=4, input="input", target="target", name="{}.png", clean_name=None, **options
):
    """Pairs whose inputs are `difference` levels brighter everywhere; returns the clean pictures."""
    clean = [texture(seed=seed, **options) for seed in range(count)]
    for number, pixels in enumerate(clean, 1):
        save(folder / input / name.format(number), pixels + pixels.dtype.type(difference))
        save(folder / target / (clean_name or name).format(number), pixels)
    return clean


def save_blocks(folder, scenes=2, blocks=3, side=24, difference=3, part="Validation"):
    """SIDD's .mat files with noisy blocks `difference` levels above the clean ones; returns the noisy ones."""
    clean = np.stack([[texture(side, side, seed=10 * s + b) for b in range(blocks)] for s in range(scenes)])
    degraded = clean + np.uint8(difference)
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / f"{part}NoisyBlocksSrgb.mat", {f"{part}NoisyBlocksSrgb": degraded})
    if part == "Validation":
        savemat(folder / f"{part}GtBlocksSrgb.mat", {f"{part}GtBlocksSrgb": clean})
    return degraded


def decibels(difference, peak=255):
    """PSNR of a constant difference."""
    return 20 * np.log10(peak / difference)
