"""Tiles as in the authors' scripts for SenseNoise and DPDD. Scores depend on them: averages only cover one tile."""

from collections.abc import Callable

import numpy as np

from kbnet.evaluation.samples import Image

TILE, STEP, CUT = 1024, 896, 64


def in_published_tiles(restore: Callable[[Image], Image], image: Image) -> Image:
    """Restore an image in tiles of 1024 x 1024 pixels with a stride of 896, cropping 64 pixels from each output side.

    The image is first padded by reflection: by 64 pixels on every side, plus the difference if the shorter side has
    less than 1024 pixels. The last tile of a row or column is aligned with the border.

    Args:
        restore: takes and returns an image [H,W] or [H,W,3].
        image: [H,W] or [H,W,3].
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
