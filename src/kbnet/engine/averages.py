"""The contexts in numpy, for `kbnet.engine.reference`; `kbnet.nn.context` explains them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.engine.contexts import Context, Gather, Local, Shared

Planes = NDArray[np.floating[Any]]

CELLS = 8
"""Averages over a window are computed on cells of this fraction of it, and interpolated between their centres."""


class Averages:
    """The averages of one call of a network. Ask for them in the order in which the network visits its sites.

    Args:
        context: where averages come from; those of a `Gather` are appended to its `means` as the call proceeds.
        height: of the network's padded input, in pixels.
    """

    def __init__(self, context: Context, height: int) -> None:
        self._context, self._height = context, height
        self._gathered: list[NDArray[Any]] = []
        self._stored: Iterator[NDArray[Any]] = iter(context.means if isinstance(context, Shared) else ())
        if isinstance(context, Gather):
            context.means = self._gathered

    def __call__(self, u: Planes) -> Planes:
        """Average features [B,C,H,W] for the channel branch: [B,C,1,1], [1,C,1,1], or [B,C,H,W] for `Local`."""
        if isinstance(self._context, Local):
            return _local_means(u, max(1, self._context.window * u.shape[2] // self._height))
        return self.share(self.pixels(u).mean((2, 3), keepdims=True))

    def pixels(self, u: Planes) -> Planes:
        """Crop features [B,C,H,W] to the pixels that averages include."""
        halo = self._context.halo * u.shape[2] // self._height if isinstance(self._context, Gather) else 0
        return u[:, :, halo : u.shape[2] - halo, halo : u.shape[3] - halo]

    def share(self, mean: Planes) -> Planes:
        """Take this call's average [B,...] over `pixels` and return the one to use, [B,...] or [1,...]."""
        if isinstance(self._context, Shared):
            return next(self._stored).reshape(1, *mean.shape[1:]).astype(mean.dtype)
        if not isinstance(self._context, Gather):
            return mean
        together: Planes = mean.mean(0, keepdims=True)
        self._gathered.append(together.ravel().astype(np.float32))
        return together


def _local_means(u: Planes, window: int) -> Planes:
    height, width = u.shape[2:]
    if window >= height and window >= width:
        mean: Planes = u.mean((2, 3), keepdims=True)
        return mean
    cell = max(1, window // CELLS)
    means = _sliding_means(_cell_means(u, cell), window // cell | 1)
    if cell == 1 or means.shape[2:] == (1, 1):
        return means
    return _enlarged(_enlarged(means, cell, height, 2), cell, width, 3)


def _cell_means(u: Planes, cell: int) -> Planes:
    for axis in (2, 3):
        starts = np.arange(0, u.shape[axis], cell)
        sizes = np.diff(np.append(starts, u.shape[axis])).astype(u.dtype)
        sums = np.add.reduceat(u, starts, axis=axis)
        u = sums / (sizes[:, None] if axis == 2 else sizes)
    return u


def _sliding_means(u: Planes, window: int) -> Planes:
    """Average over a window around each value; near a border the window is shifted inwards."""
    for axis in (2, 3):
        length = u.shape[axis]
        size = min(window, length)
        total = np.insert(u.cumsum(axis, dtype=np.float64), 0, 0, axis=axis)
        starts = np.clip(np.arange(length) - (size - 1) // 2, 0, length - size)
        u = ((total.take(starts + size, axis) - total.take(starts, axis)) / size).astype(u.dtype)
    return u if any(window < length for length in u.shape[2:]) else u[:, :, :1, :1]


def _enlarged(means: Planes, cell: int, length: int, axis: int) -> Planes:
    """Interpolate between the centres of cells along one axis, to `length` values."""
    position = np.maximum((np.arange(length) + 0.5) / cell - 0.5, 0)
    before = np.minimum(position.astype(np.intp), means.shape[axis] - 1)
    after = np.minimum(before + 1, means.shape[axis] - 1)
    share = (position - before).astype(means.dtype)
    share = share[:, None] if axis == 2 else share
    result: Planes = means.take(before, axis) * (1 - share) + means.take(after, axis) * share
    return result
