"""Outbreaks: areas where a network's output can't be the restored photo. They are detected and undone here.

Published weights of this family are known to paint coloured blotches on flat white or dark areas. Denoising changes the
mean of an area only slightly, even where clipping at black or white biased it; an outbreak changes it a lot.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELL = 32
"""Side of the compared areas, pixels."""

MEAN_CHANGE = 0.14
"""An area is an outbreak if its mean changes by more than this in any channel, on the scale of [0,1].

Noise of sigma 75, clipped at black, raises the mean of a black area by 0.12, which a denoiser removes again.
"""

OVERSHOOT = 0.5
"""The largest accepted excess of an area's values over the input's range, averaged over the area's pixels."""

Image = NDArray[np.float32]


def outbreaks(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the areas of `after` that are outbreaks.

    Memory does not depend on the image's height.

    Args:
        before, after: [H,W] or [H,W,C], input and output of the network; uint8, uint16, or floating on the scale of
            [0,1].

    Returns:
        [H // CELL, W // CELL] of bool, at least 1 each; the last areas extend to the border.
    """
    low, high = (_as_unit(edge.reshape(1, 1))[0, 0, 0] for edge in (before.min(), before.max()))
    height = before.shape[0]
    tops = [top * CELL for top in range(max(height // CELL, 1))]
    found = [_found(before[a:b], after[a:b], low, high) for a, b in pairwise([*tops, height])]
    return np.concatenate(found)


def _found(before: NDArray[Any], after: NDArray[Any], low: np.float32, high: np.float32) -> NDArray[np.bool_]:
    """One row of areas, [1, W // CELL], in an image whose input has values from `low` to `high`."""
    x, y = _as_unit(before), _as_unit(after)
    means = _cell_means(y)
    outside = np.maximum(low - y, y - high).clip(min=0)
    moved = np.abs(means - _cell_means(x)).max(axis=2) > MEAN_CHANGE
    found: NDArray[np.bool_] = moved | (_cell_means(outside).max(axis=2) > OVERSHOOT)
    return found | ~np.isfinite(means).all(axis=2)


def undo(before: Image, after: Image) -> Image:
    """Replace every outbreak in `after` by `before`, with a smooth transition over the surrounding areas.

    Args:
        before, after: as for `outbreaks`.

    Returns:
        `after` itself if it has no outbreak, else a new array.
    """
    found = outbreaks(before, after)
    if not found.any():
        return after
    kept = 1 - _spread(found, before.shape[0], before.shape[1])[..., None]
    restored = np.where(np.isfinite(after), after, before)
    return (before + kept * (restored - before)).astype(np.float32)


def undo_in(x: Image, y: Image) -> Image:
    """Apply `undo` to each image of two batches [B,C,H,W]."""
    pairs = [[image.transpose(1, 2, 0) for image in both] for both in zip(x, y, strict=True)]
    return np.stack([undo(before, after).transpose(2, 0, 1) for before, after in pairs])


def outbreak_note(before: NDArray[Any], after: NDArray[Any], task: str = "", *, guarded: bool = False) -> str | None:
    """A note for the user if a result has outbreaks; None if it has none, or for rain, whose removal changes means.

    Args:
        before, after: uint8, uint16 or float, [H,W] or [H,W,C], of one shape and dtype.
        task: what the model restores.
        guarded: whether outbreaks were already undone.
    """
    if task == "derain" or guarded or before.size == 0:
        return None
    share = float(outbreaks(before, after).mean())
    if share == 0:
        return None
    percent = max(round(100 * share), 1)
    return (
        f"{percent}% of the image changed far more than restoration explains: these weights may not suit it; "
        "--guard keeps the original in such areas"
    )


def _as_unit(image: NDArray[Any]) -> Image:
    scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    unit: Image = image.astype(np.float32)
    unit /= np.float32(scale)
    return unit[..., None] if unit.ndim == 2 else unit


def _cell_means(image: Image) -> NDArray[np.float64]:
    """Means [h,w,C] over cells; the last ones are larger, since means over small cells are noisy."""
    rows, columns = (np.arange(max(side // CELL, 1)) * CELL for side in image.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=np.float64), columns, axis=1)
    heights = np.diff(np.append(rows, image.shape[0]))
    widths = np.diff(np.append(columns, image.shape[1]))
    means: NDArray[np.float64] = sums / (heights[:, None, None] * widths[:, None])
    return means


def _spread(found: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float32]:
    """Weights [H,W]: 1 in the found cells, falling to 0 over one cell around them."""
    padded = np.pad(found, 1)
    near = np.zeros((found.shape[0] + 2, found.shape[1] + 2), bool)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            near |= np.roll(padded, (down, across), axis=(0, 1))
    # Interpolated between cell centres, so that found cells are 1 throughout.
    y, x = ((np.arange(side) + 0.5) / CELL + 0.5 for side in (height, width))
    return _interpolate(near.astype(np.float32), y, x)


def _interpolate(grid: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
    top, left = np.minimum(y.astype(int), grid.shape[0] - 1), np.minimum(x.astype(int), grid.shape[1] - 1)
    bottom, right = np.minimum(top + 1, grid.shape[0] - 1), np.minimum(left + 1, grid.shape[1] - 1)
    down, across = (y % 1).astype(np.float32)[:, None], (x % 1).astype(np.float32)
    upper = grid[top][:, left] * (1 - across) + grid[top][:, right] * across
    lower = grid[bottom][:, left] * (1 - across) + grid[bottom][:, right] * across
    weights: NDArray[np.float32] = upper * (1 - down) + lower * down
    return weights
