"""Restore an image band by band: rows of tiles across its width, blended the same way as by the Restorer.

Where two bands overlap, the sums of the upper one are carried into the lower one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kbnet import files
from kbnet.engine.contexts import Context, FullFrame, Image, Local, Shared
from kbnet.imaging import Pixels
from kbnet.imaging.rows import RowFacts, RowReader, open_rows
from kbnet.inference.blending import blend
from kbnet.inference.look import Look, Mixer
from kbnet.inference.memory import SMALLEST_TILE, auto_tile, side_within
from kbnet.inference.restorer import Restorer
from kbnet.inference.rowstate import RowState
from kbnet.inference.samples import ArraySamples, finish, fitted
from kbnet.inference.tiles import Span, mirrored, padded, plan

BUDGET_BYTES = 512 * 2**20
"""For a tile's activations and a band's sums together; the process itself takes another 300 MB."""

Progress = Callable[[int, int], None]

_LINES = 64  # rows converted to the image's own sample type at a time


def restore_bands(
    restorer: Restorer,
    reader: RowReader,
    rows: Sequence[Span],
    cols: Sequence[Span],
    context: Context,
    state: RowState,
    strength: float,
    progress: Progress,
) -> None:
    """Restore the bands that are missing in `state`, from top to bottom, and store each one there.

    Args:
        restorer: suited to the image's number of channels.
        reader: reads the image.
        rows, cols: the tiles, from `plan_tiles`.
        context: from `context_of`.
        state: the bands finished so far.
        strength: 1 for the restored image, 0 for the input.
        progress: called with (tiles done, tiles in total).
    """
    facts = reader.facts
    done = state.done * len(cols)
    progress(done, len(rows) * len(cols))
    band = _Band(reader)

    def restore(row: Span, col: Span) -> Image:
        nonlocal done
        tile = fitted(band.tile(row, col), restorer.config.channels)
        restored = restorer.run(tile, context)
        done += 1
        progress(done, len(rows) * len(cols))
        return restored

    for count, (top, values, carried) in enumerate(
        blend(rows, cols, restore, start=state.done, carried=state.carried()), state.done + 1
    ):
        bottom = min(top + values.shape[2], facts.height)
        for first in range(top, bottom, _LINES):
            last = min(first + _LINES, bottom)
            state.write(band.finished(first, values[:, :, first - top : last - top, : facts.width], strength))
        state.commit(count, bottom, carried)


def mix_rows(source: Path, restored: Path, facts: RowFacts, look: Look) -> Path:
    """Mix a image with its restored rows, and return a raw file of the result beside theirs.

    Args:
        source: the image.
        restored: a raw file of its fully restored rows [height,width,bands].
        facts: of the image.
        look: the settings.

    Raises:
        OutputError: the disk is full.
    """
    mixed, colours = restored.with_name("mixed.raw"), slice(facts.channels)
    mixer, waiting = Mixer(look), deque[Pixels]()

    def rows() -> Iterator[Pixels]:
        with open_rows(source) as reader, restored.open("rb") as file:
            for top in range(0, facts.height, _LINES):
                count = min(_LINES, facts.height - top)
                before = reader.read(top, count)
                data = file.read(before.nbytes)
                after = np.frombuffer(data, facts.dtype).reshape(before.shape)
                waiting.extend(before)
                yield mixer.push(before[:, :, colours], after[:, :, colours])
        yield mixer.finish()

    with files.writing(mixed, overwrite=True) as output:
        for part in rows():
            for row in part:
                whole = waiting.popleft().copy()  # with its alpha
                whole[:, colours] = row
                output.write(whole.tobytes())
    return mixed


class _Band:
    """Rows of an image [h,width,bands], those of one row of tiles at a time."""

    def __init__(self, reader: RowReader) -> None:
        self._reader, self._facts, self._top = reader, reader.facts, -1
        self._rows: Pixels

    def tile(self, row: Span, col: Span) -> Image:
        """A tile as float32 [1,C,h,w] in [0,1], mirrored at the image's end."""
        if row.start != self._top:
            bottom = min(row.stop, self._facts.height)
            self._rows, self._top = self._reader.read(row.start, bottom - row.start), row.start
        down = mirrored(self._facts.height, row.start, row.stop) - row.start
        across = mirrored(self._facts.width, col.start, col.stop)
        return _samples(self._rows, self._facts).read(down, across)

    def finished(self, top: int, restored: Image, strength: float) -> Pixels:
        """Restored values [1,C,h,width] as samples of the image, with the alpha of its rows [h,width,bands]."""
        first = top - self._top
        rows = self._rows[first : first + restored.shape[2]]
        result = rows.copy()
        finish(_samples(rows, self._facts, result), 0, restored, strength)
        return result


def _samples(rows: Pixels, facts: RowFacts, result: Pixels | None = None) -> ArraySamples:
    """Rows [h,width,bands] without their alpha, and those of a result."""
    colours = slice(facts.channels)
    result = rows[:0] if result is None else result
    return ArraySamples(rows[:, :, colours], result[:, :, colours], (0.0, float(np.iinfo(facts.dtype).max)))


def plan_sizes(restorer: Restorer, facts: RowFacts) -> dict[str, int]:
    """Choose the side of the tiles, and how many pixels to sample for a global context."""
    pixel = restorer.runner.bytes_per_pixel
    limit = min(auto_tile(restorer.runner) ** 2, BUDGET_BYTES // pixel)
    if restorer.tile != "auto":
        return {"side": restorer.tile, "limit": limit}
    column = facts.width * (4 * restorer.config.channels + facts.bands * facts.dtype.itemsize)
    side = min(side_within(BUDGET_BYTES, pixel, column), auto_tile(restorer.runner))
    return {"side": max(SMALLEST_TILE, side // 64 * 64), "limit": limit}


def plan_tiles(restorer: Restorer, facts: RowFacts, side: int) -> tuple[list[Span], list[Span]]:
    """The rows and the columns of tiles of `side` pixels, over the padded image."""
    height, width = padded(facts.height), padded(facts.width)
    return plan(height, *restorer.tiling(side)), plan(width, *restorer.tiling(side))


def context_of(
    restorer: Restorer, source: Path, facts: RowFacts, state: RowState, *, one_tile: bool, limit: int
) -> Context:
    """The source of averages over the image; a global context is gathered in a separate pass and kept in `state`."""
    if restorer.context == "local":
        return Local(restorer.window)
    if restorer.context == "tile" or one_tile:
        return FullFrame()
    means = state.means()
    if means is None:
        height, width = padded(facts.height), padded(facts.width)
        side, halo, corners = restorer.sample(height, width, limit)
        crops = []
        with open_rows(source) as reader:  # a separate pass: rows can be read only once, from top to bottom
            for top in sorted({y for y, _ in corners}):
                count = min(side, facts.height - top)
                band = reader.read(top, count)
                vertical = mirrored(facts.height, top, top + side) - top
                for left in (x for y, x in corners if y == top):
                    columns = mirrored(facts.width, left, left + side)
                    crop = _samples(band, facts).read(vertical, columns)
                    crops.append(fitted(crop, restorer.config.channels))
        means = restorer.gather(np.concatenate(crops), halo)
        state.keep_means(means)
    return Shared(means)
