"""Tiles as the authors' scripts cut them for SenseNoise and DPDD: figures depend on them, for averages see the tile."""

from collections.abc import Callable

import numpy as np

from kbnet.evaluation.samples import Image

TILE, STEP, CUT = 1024, 896, 64


def in_published_tiles(restore: Callable[[Image], Image], image: Image) -> Image:
    """Restore an image tile by tile: 1024 pixels a side, 896 apart, with the outer 64 of every output cut off.

    The image is first padded by reflection, 64 pixels on every side, and where its shorter side is under 1024 by as
    many pixels more as that lacks, so that a tile fits. The last tile of a row or column lies flush with the border.
    """
    height, width = image.shape[:2]
    border = CUT + max(0, TILE - min(height, width))
    padded = np.pad(image, [(border, border), (border, border)] + [(0, 0)] * (image.ndim - 2), mode="reflect")
    result = np.zeros_like(padded)
    for top in _starts(padded.shape[0]):
        for left in _starts(padded.shape[1]):
            output = restore(np.ascontiguousarray(padded[top : top + TILE, left : left + TILE]))
            inner = output[CUT:-CUT, CUT:-CUT]
            result[top + CUT : top + TILE - CUT, left + CUT : left + TILE - CUT] = inner
    return result[border : border + height, border : border + width]


def _starts(length: int) -> list[int]:
    starts = list(range(0, length - TILE, STEP))
    return [*starts, length - TILE]
