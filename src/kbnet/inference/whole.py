"""Images in memory, restored in one pass or in tiles; each row of the result is written as soon as it is final.

Besides the image and its result, memory holds one row of tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kbnet.engine.contexts import Context, FullFrame, Image, Local, Shared
from kbnet.inference.blending import blend
from kbnet.inference.memory import SMALLEST_TILE, auto_tile
from kbnet.inference.ram import check_memory
from kbnet.inference.runners.graphs import ExportedNetwork
from kbnet.inference.samples import Readable, Samples, Turned, finish, fitted
from kbnet.inference.tiles import PADDING, Span, mirrored, padded, plan, turn_back

if TYPE_CHECKING:
    from kbnet.inference.restorer import Restorer

SMALL_PIXELS, TOGETHER = 128 * 128, 8
"""Images up to this size go through the network so many at a time; larger ones gain nothing (benchmarks/batches.py)."""

_FLOAT = 4  # bytes

Progress = Callable[[int, int], None]


def restore_images(restorer: "Restorer", images: Sequence[Samples], strength: float, progress: Progress) -> None:
    """Restore images of one size and number of channels, and write their results.

    Small images go through the network together; large ones one by one, in tiles.

    Args:
        restorer: the one that suits the images' number of channels.
        images: at least one.
        strength: 1 for the restored image, 0 for the input.
        progress: called with (tiles done, tiles in all).

    Raises:
        NotEnoughMemoryError: the work needs more memory than is free; nothing was computed.
        ModelError: the network returned NaN or infinity.
    """
    _check_memory(restorer, images)
    turns = range(8) if restorer.ensemble else range(1)
    # Once: free memory changes while the work runs, and with it the number of tiles that was announced.
    largest = _largest_tile(restorer, images)
    at_once = _at_once(restorer, images[0], largest)
    total = 0

    def advance(done: int, count: int) -> None:
        for image in range(len(group)):  # several images take one tile each, and are done at the same time
            progress(total + done + image, count * len(images) * len(turns))

    for first in range(0, len(images), at_once):
        group = images[first : first + at_once]
        sums: Image | None = None
        for index in turns:
            turned: Sequence[Readable] = [Turned(image, index) for image in group] if index else group
            rows, cols = _plan(restorer, turned[0], largest)
            for top, values in _bands(restorer, turned, rows, cols, largest, advance):
                if not restorer.ensemble:
                    _finish(group, top, values, strength)
                    continue
                if sums is None:
                    sums = np.zeros((*values.shape[:2], group[0].height, group[0].width), np.float32)
                place = _place(sums, top, values.shape[2], index)
                place += turn_back(values, index) / np.float32(len(turns))
            total += len(rows) * len(cols) * len(group)
        if sums is not None:
            _finish(group, 0, sums, strength)


def _finish(group: Sequence[Samples], top: int, values: Image, strength: float) -> None:
    for image, one in zip(group, np.split(values, len(values)), strict=True):
        finish(image, top, one, strength)


def _place(sums: Image, top: int, count: int, index: int) -> Image:
    """The part of an upright image [B,C,H,W] that rows `top` to `top + count` of the image turned by `index` show."""
    height, width = sums.shape[2:]
    if index % 2:  # rows of the turned image are columns of the upright one
        left = width - top - count if index in (1, 7) else top
        return sums[:, :, :, left : left + count]
    upper = height - top - count if index in (2, 6) else top
    return sums[:, :, upper : upper + count]


def _at_once(restorer: "Restorer", image: Readable, largest: int) -> int:
    """How many images go through the network in one pass; those in tiles one by one."""
    height, width = image.height, image.width
    small = height * width <= SMALL_PIXELS and max(height, width) + PADDING <= largest
    alone = isinstance(restorer.runner, ExportedNetwork) or restorer.tile not in ("auto", 0)
    return TOGETHER if small and not alone else 1


def _plan(restorer: "Restorer", image: Readable, largest: int) -> tuple[list[Span], list[Span]]:
    """The rows and columns of tiles over the padded image; `largest` is the side of one that memory allows."""
    height, width = padded(image.height), padded(image.width)
    side = largest if restorer.tile == "auto" else restorer.tile or max(height, width)
    return plan(height, *restorer.tiling(side)), plan(width, *restorer.tiling(side))


def _bands(
    restorer: "Restorer",
    images: Sequence[Readable],
    rows: Sequence[Span],
    cols: Sequence[Span],
    largest: int,
    progress: Progress,
) -> Iterator[tuple[int, Image]]:
    """Yield (top, rows from there on [B,C,h,W]) of the restored images, from top to bottom, without padding."""
    height, width = images[0].height, images[0].width

    def read(top: int, bottom: int, left: int, right: int) -> Image:
        down, across = mirrored(height, top, bottom), mirrored(width, left, right)
        parts = [fitted(image.read(down, across), restorer.config.channels) for image in images]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def restored(row: Span, col: Span) -> Image:
        tile = read(row.start, row.stop, col.start, col.stop)
        return restorer.run(tile, context)

    context: Context = Local(restorer.window) if restorer.context == "local" else FullFrame()
    if len(rows) == len(cols) == 1:
        values = restored(rows[0], cols[0])
        progress(1, 1)
        yield 0, values[:, :, :height, :width]
        return
    if restorer.context == "global":
        side, halo, corners = restorer.sample(padded(height), padded(width), largest**2)
        crops = np.concatenate([read(y, y + side, x, x + side) for y, x in corners])
        context = Shared(restorer.gather(crops, halo))
        del crops
    done = 0

    def counted(row: Span, col: Span) -> Image:
        nonlocal done
        tile = restored(row, col)
        done += 1
        progress(done, len(rows) * len(cols))
        return tile

    for band in blend(rows, cols, counted):
        yield band.top, band.values[:, :, : height - band.top, :width]


def _buffers(restorer: "Restorer", images: Sequence[Samples]) -> int:
    """Bytes of all results, and with an ensemble of the sums of one image."""
    first = images[0]
    sums = _FLOAT * restorer.config.channels * first.height * first.width if restorer.ensemble else 0
    return len(images) * first.result_bytes + sums


def _row_bytes(restorer: "Restorer", image: Readable) -> int:
    """Bytes of a row of sums, one pixel high."""
    return _FLOAT * restorer.config.channels * padded(image.width)


def _largest_tile(restorer: "Restorer", images: Sequence[Samples]) -> int:
    first = images[0]
    row = _row_bytes(restorer, first)
    return auto_tile(restorer.runner, buffers=_buffers(restorer, images), row=row)


def _check_memory(restorer: "Restorer", images: Sequence[Samples]) -> None:
    """Refuse images that do not fit even in the smallest tiles that the Restorer's settings allow.

    Raises:
        NotEnoughMemoryError: in one line, with what to do.
    """
    first = images[0]
    height, width = padded(first.height), padded(first.width)
    side = SMALLEST_TILE if restorer.tile == "auto" else restorer.tile or max(height, width)
    needed = _buffers(restorer, images)
    if height > side or width > side:
        needed += min(side, height) * _row_bytes(restorer, first)
    if restorer.device == "cpu":
        needed += min(side, height) * min(side, width) * restorer.runner.bytes_per_pixel
    option = "the full frame (tile 0)" if restorer.tile == 0 else "an ensemble" if restorer.ensemble else ""
    check_memory(first.width, first.height, needed, option=option)
