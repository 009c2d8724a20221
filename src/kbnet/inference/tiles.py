"""How an image is cut into overlapping tiles and put together again without seams. Pure functions of sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kbnet.errors import InvalidInputError

PADDING = 8
"""Images are mirrored up to multiples of this, as the paper's protocols do; KBNet-S itself adds zeros up to 16."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis: pixels `start` to `stop`, and the share of each in the result."""

    start: int
    stop: int
    weights: Tensor  # [stop - start], float32; over all spans of an axis they add up to one at every pixel


def plan(length: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """Cut `length` pixels of one axis into spans of at most `tile` that share at least `overlap` with their neighbours.

    Spans start at multiples of `multiple`, so that the network halves the resolution of every tile on the same grid as
    that of the whole image; the last one ends with the image.

    Three eighths of the overlap next to each cut have no weight, since the network saw zeros beyond it; over the middle
    quarter one tile fades into the next.

    Raises:
        InvalidInputError: the tile leaves no step after the overlap.
    """
    if length <= tile:
        return [Span(0, length, torch.ones(length))]
    tile -= tile % multiple
    step = (tile - overlap) // multiple * multiple
    if step <= 0 or overlap < 0:
        raise InvalidInputError(
            f"expected an overlap from 0 to under the tile's {tile} pixels by at least {multiple}, got {overlap}; "
            "give a larger tile or a smaller overlap"
        )
    last, count = _count(length, tile, step, multiple)
    # As small as that many tiles can be: what they share beyond the overlap is work done twice.
    while tile - multiple > overlap + multiple:
        fewer, same = _count(length, tile - multiple, (tile - multiple - overlap) // multiple * multiple, multiple)
        if same != count:
            break
        tile, last = tile - multiple, fewer
    starts = [last * i // (count - 1) // multiple * multiple for i in range(count)]
    bounds = [(start, min(start + tile, length)) for start in starts]
    raw = [_fade(stop - start, overlap, first=start == 0, last=stop == length) for start, stop in bounds]
    total = torch.zeros(length)
    for (start, stop), weights in zip(bounds, raw, strict=True):
        total[start:stop] += weights
    return [Span(a, b, w / total[a:b]) for (a, b), w in zip(bounds, raw, strict=True)]


def _count(length: int, tile: int, step: int, multiple: int) -> tuple[int, int]:
    """Start of the last of the tiles that are at most `step` apart, and their number."""
    last = -(-(length - tile) // multiple) * multiple
    return last, -(-last // step) + 1


def _fade(length: int, overlap: int, *, first: bool, last: bool) -> Tensor:
    """Weights that rise from 0 to 1 over the middle quarter of the overlap at each end that is not the image's."""
    position = torch.arange(length) + 0.5
    margin, ramp = overlap * 3 / 8, max(overlap / 4, 1)
    rise = ((position - margin) / ramp).clamp(0, 1)
    weights = torch.ones(length)
    if not first:
        weights = weights * rise
    if not last:
        weights = weights * rise.flip(0)
    # Where three tiles meet in a short axis all could be zero; a trace of weight keeps the sum above it.
    return weights.clamp_min(1e-6)


def padded(length: int) -> int:
    """The length of an axis that is mirrored up to a multiple of `PADDING`."""
    return -(-length // PADDING) * PADDING


def reflect_pad(image: Tensor, multiple: int) -> Tensor:
    """Mirror [B,C,H,W] at the bottom and the right up to multiples of `multiple`, however small the image is."""
    for axis in (2, 3):
        length = image.shape[axis]
        extra = -length % multiple
        if extra:
            image = image.index_select(axis, mirrored(length, 0, length + extra).to(image.device))
    return image


def mirrored(length: int, start: int, stop: int) -> Tensor:
    """Which of `length` pixels stands at each place from `start` to `stop` of an axis that is mirrored at its end."""
    index = torch.arange(start, stop)
    period = max(2 * (length - 1), 1)
    index = index % period
    return torch.minimum(index, period - index) if length > 1 else index * 0


def sample_crops(height: int, width: int, side: int, halo: int, pixels: int, multiple: int) -> list[tuple[int, int]]:
    """Top-left corners of evenly spread side x side crops that hold at most `pixels` in all; at least one.

    As many as cover the image without their borders of `halo` pixels, if that is not too many. Corners lie on multiples
    of `multiple` and the crops inside the image; along an axis shorter than `side` they begin at its edge.
    """
    inner = max(side - 2 * halo, 1)
    rows, cols = (max(1, -(-(length - 2 * halo) // inner)) for length in (height, width))
    if rows * cols * side * side > pixels:
        count = max(1, pixels // (side * side))
        rows = max(1, min(round((count * height / width) ** 0.5), count, rows))
        cols = max(1, min(count // rows, cols))

    def spread(length: int, number: int) -> list[int]:
        # The middles of `number` equal parts of the axis. Two of them may fall on the same multiple.
        centres = [(2 * i + 1) * length / (2 * number) for i in range(number)]
        return sorted({int(max(min(c - side / 2, length - side), 0)) // multiple * multiple for c in centres})

    return [(top, left) for top in spread(height, rows) for left in spread(width, cols)]


def turn(image: Tensor, index: int) -> Tensor:
    """[B,C,H,W] by the flip and quarter turns number `index`, 0 (none) to 7."""
    return torch.rot90(image.flip(3) if index >= 4 else image, index % 4, (2, 3))


def turn_back(image: Tensor, index: int) -> Tensor:
    """What `turn` was given to return `image`."""
    image = torch.rot90(image, -(index % 4), (2, 3))
    return image.flip(3) if index >= 4 else image
