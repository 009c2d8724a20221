"""Rows of tiles, blended into rows of the restored image as soon as no other tile reaches them.

Images restored in memory and by rows both use this module, so that their results are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kbnet.engine.contexts import Image
from kbnet.inference.tiles import Span


class Band(NamedTuple):
    """What a row of tiles completes.

    Attributes:
        top: the first of the rows that are complete.
        values: these rows, float32 [B,C,h,width]; valid until the next band is requested.
        carried: sums [B,C,h,width] that belong to the next row of tiles, or None after the last; valid as long.
    """

    top: int
    values: Image
    carried: Image | None


def blend(
    rows: Sequence[Span],
    cols: Sequence[Span],
    restore: Callable[[Span, Span], Image],
    *,
    start: int = 0,
    carried: Image | None = None,
) -> Iterator[Band]:
    """Restore tiles from left to right and top to bottom, and yield a band after each row of them.

    Memory is that of one row of tiles.

    Args:
        rows, cols: the tiles, from `kbnet.inference.tiles.plan`.
        restore: returns the restored tile [B,C,h,w], float32.
        start: the row of tiles to start with.
        carried: sums that the rows of tiles above left for it.
    """
    sums: Image | None = None
    width = cols[-1].stop
    for i in range(start, len(rows)):
        row = rows[i]
        for j, col in enumerate(cols):
            tile = restore(row, col)
            if sums is None:
                tallest = max(span.stop - span.start for span in rows)
                sums = np.zeros((*tile.shape[:2], tallest, width), np.float32)
            if j == 0:
                kept = 0 if carried is None else carried.shape[2]
                if carried is not None:
                    sums[:, :, :kept] = carried
                sums[:, :, kept:] = 0
            weights = row.weights[:, None] * col.weights
            sums[:, :, : row.stop - row.start, col.start : col.stop] += tile * weights
        assert sums is not None
        last = i + 1 == len(rows)
        final = (row.stop if last else rows[i + 1].start) - row.start
        carried = None if last else sums[:, :, final : row.stop - row.start].copy()
        yield Band(row.start, sums[:, :, :final], carried)
