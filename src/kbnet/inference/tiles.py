"""Cutting an image into overlapping tiles, and the weights that blend them without seams. Pure functions of sizes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

PADDING = 8
"""Images are mirrored up to multiples of this, as the paper's protocols do; KBNet-S itself adds zeros up to 16."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis: pixels `start` to `stop`, and the weight of each in the result."""

    start: int
    stop: int
    weights: NDArray[np.float32]  # [stop - start], float32; at every pixel the weights of all spans sum to 1


def plan(length: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """Cut `length` pixels of one axis into spans of at most `tile` that share at least `overlap` with their neighbours.

    Spans start at multiples of `multiple`, so that the network halves the resolution of every tile on the same grid as
    that of the whole image; the last span ends at the edge of the image.

    The three eighths of the overlap next to each cut have no weight, since the network sees zeros beyond the cut. Over
    the middle quarter, one tile fades into the next.

    Raises:
        InvalidInputError: the overlap is not smaller than the tile by at least `multiple`.
    """
    if length <= tile:
        return [Span(0, length, np.ones(length, np.float32))]
    tile -= tile % multiple
    step = (tile - overlap) // multiple * multiple
    if step <= 0 or overlap < 0:
        raise InvalidInputError(
            f"expected an overlap from 0 to {tile - multiple} pixels for tiles of {tile}, got {overlap}; "
            "use a larger tile or a smaller overlap"
        )
    last, count = _count(length, tile, step, multiple)
    # The smallest tile that needs the same number of tiles: sharing more than the overlap is duplicate work.
    while tile - multiple > overlap + multiple:
        fewer, same = _count(length, tile - multiple, (tile - multiple - overlap) // multiple * multiple, multiple)
        if same != count:
            break
        tile, last = tile - multiple, fewer
    starts = [last * i // (count - 1) // multiple * multiple for i in range(count)]
    bounds = [(start, min(start + tile, length)) for start in starts]
    raw = [_fade(stop - start, overlap, first=start == 0, last=stop == length) for start, stop in bounds]
    total = np.zeros(length, np.float32)
    for (start, stop), weights in zip(bounds, raw, strict=True):
        total[start:stop] += weights
    return [Span(a, b, w / total[a:b]) for (a, b), w in zip(bounds, raw, strict=True)]


def _count(length: int, tile: int, step: int, multiple: int) -> tuple[int, int]:
    """The start of the last tile, and the number of tiles, where starts are at most `step` apart."""
    last = -(-(length - tile) // multiple) * multiple
    return last, -(-last // step) + 1


def _fade(length: int, overlap: int, *, first: bool, last: bool) -> NDArray[np.float32]:
    """Weights that rise from 0 to 1 over the middle quarter of the overlap at each end, except at the image's edges."""
    position = np.arange(length, dtype=np.float32) + np.float32(0.5)
    margin, ramp = overlap * 3 / 8, max(overlap / 4, 1)
    rise = ((position - np.float32(margin)) / np.float32(ramp)).clip(0, 1)
    weights = np.ones(length, np.float32)
    if not first:
        weights = weights * rise
    if not last:
        weights = weights * rise[::-1]
    # On a short axis where three tiles meet, all weights could be 0; a tiny weight keeps their sum positive.
    return np.maximum(weights, np.float32(1e-6))


def padded(length: int) -> int:
    """The length of an axis that is mirrored up to a multiple of `PADDING`."""
    return -(-length // PADDING) * PADDING


def reflect_pad(image: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Mirror [B,C,H,W] at the bottom and right up to multiples of `multiple`; works for images of any size."""
    for axis in (2, 3):
        length = image.shape[axis]
        extra = -length % multiple
        if extra:
            image = image.take(mirrored(length, 0, length + extra), axis)
    return image


def mirrored(length: int, start: int, stop: int) -> NDArray[np.intp]:
    """Indices of the pixels at positions `start` to `stop` of an axis of `length` pixels, mirrored at its end."""
    index = np.arange(start, stop, dtype=np.intp)
    period = max(2 * (length - 1), 1)
    index = index % period
    return np.minimum(index, period - index) if length > 1 else index * 0


def sample_crops(height: int, width: int, side: int, halo: int, pixels: int, multiple: int) -> list[tuple[int, int]]:
    """Top-left corners of evenly spread crops of side x side pixels, with at most `pixels` in total; at least one crop.

    The crops cover the image without their borders of `halo` pixels, unless that would be too many. Corners are
    multiples of `multiple`, and crops lie inside the image; on an axis shorter than `side` they start at its edge.
    """
    inner = max(side - 2 * halo, 1)
    rows, cols = (max(1, -(-(length - 2 * halo) // inner)) for length in (height, width))
    if rows * cols * side * side > pixels:
        count = max(1, pixels // (side * side))
        rows = max(1, min(round((count * height / width) ** 0.5), count, rows))
        cols = max(1, min(count // rows, cols))

    def spread(length: int, number: int) -> list[int]:
        # The centres of `number` equal parts of the axis. Two corners may round to the same multiple.
        centres = [(2 * i + 1) * length / (2 * number) for i in range(number)]
        return sorted({int(max(min(c - side / 2, length - side), 0)) // multiple * multiple for c in centres})

    return [(top, left) for top in spread(height, rows) for left in spread(width, cols)]


def turn(image: NDArray[Any], index: int) -> NDArray[Any]:
    """Flip and rotate [B,C,H,W] by one of eight symmetries, `index` 0 (unchanged) to 7."""
    return np.rot90(image[..., ::-1] if index >= 4 else image, index % 4, (2, 3))


def turn_back(image: NDArray[Any], index: int) -> NDArray[Any]:
    """Undo `turn`."""
    image = np.rot90(image, -(index % 4), (2, 3))
    return image[..., ::-1] if index >= 4 else image
