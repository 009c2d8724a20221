"""The bands of a picture that is restored by rows: rows of tiles across it, blended as the Restorer blends tiles.

Where two bands overlap, the sums of the upper are carried into the lower.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kbnet.imaging import Pixels
from kbnet.imaging.rows import RowFacts, RowReader, open_rows
from kbnet.inference.arrays import to_channels
from kbnet.inference.memory import auto_tile, bytes_per_pixel
from kbnet.inference.restorer import PADDING, Restorer
from kbnet.inference.rowstate import RowState
from kbnet.inference.tiles import Span, mirrored, plan
from kbnet.nn import FullFrame, Local, Shared

BUDGET_BYTES = 512 * 2**20
"""For a tile's activations and a band's sums together; a process has 300 MB more."""

Progress = Callable[[int, int], None]

_LINES = 64  # rows that are turned into the picture's samples at once


def restore_bands(
    restorer: Restorer,
    reader: RowReader,
    rows: Sequence[Span],
    cols: Sequence[Span],
    context: FullFrame,
    state: RowState,
    strength: float,
    progress: Progress,
) -> None:
    """Restore the bands that `state` lacks, from top to bottom, and keep each there.

    Args:
        restorer: for the picture's number of channels.
        reader: of the picture.
        rows, cols: the tiles, from `plan_tiles`.
        context: from `context_of`.
        state: what is there.
        strength: 1 for the restored picture, 0 for the input.
        progress: called with (tiles done, tiles in all).
    """
    facts = reader.facts
    start = state.done
    carried = state.carried()
    progress(start * len(cols), len(rows) * len(cols))
    for i in range(start, len(rows)):
        span = rows[i]
        band = reader.read(span.start, min(span.stop, facts.height) - span.start)
        sums = torch.zeros(1, restorer.network.config.channels, span.stop - span.start, cols[-1].stop)
        if carried is not None:
            sums[:, :, : carried.shape[2]] = carried
        vertical = mirrored(facts.height, span.start, span.stop)
        for j, col in enumerate(cols):
            horizontal = mirrored(facts.width, col.start, col.stop)
            tile = _floats(band, horizontal, facts)[:, :, vertical - span.start]
            fitted, _ = to_channels(tile, restorer.network.config.channels)
            with torch.inference_mode():
                restored = restorer.run(fitted, context).to("cpu", torch.float32)
            sums[:, :, :, col.start : col.stop] += restored * (span.weights[:, None] * col.weights)
            progress(i * len(cols) + j + 1, len(rows) * len(cols))
        final = (rows[i + 1].start if i + 1 < len(rows) else facts.height) - span.start
        for top in range(0, final, _LINES):
            part = slice(top, min(top + _LINES, final))
            state.write(_samples(band[part], sums[:, :, part, : facts.width], facts, strength))
        carried = sums[:, :, final:].clone() if i + 1 < len(rows) else None
        state.commit(i + 1, span.start + final, carried)


def _floats(pixels: Pixels, columns: Tensor, facts: RowFacts) -> Tensor:
    """Some columns of rows [h,width,bands] as float32 [1,C,h,columns] in [0,1], without alpha."""
    chosen = pixels[:, columns.numpy(), : facts.channels].astype(np.float32)
    return torch.from_numpy(chosen).div_(float(np.iinfo(facts.dtype).max)).permute(2, 0, 1)[None]


def _samples(rows: Pixels, restored: Tensor, facts: RowFacts, strength: float) -> Pixels:
    """Restored values [1,C,h,width] as samples of the picture, with the alpha of its rows [h,width,bands]."""
    original = _floats(rows, torch.arange(facts.width), facts)
    _, back = to_channels(original, restored.shape[1])
    result = back(restored)
    if strength != 1:
        result = original + strength * (result - original)
    top = np.float32(np.iinfo(facts.dtype).max)
    samples = np.rint(np.clip(result[0].permute(1, 2, 0).numpy(), 0, 1) * top).astype(facts.dtype)
    return np.concatenate([samples, rows[:, :, facts.channels :]], axis=2)


def plan_sizes(restorer: Restorer, facts: RowFacts) -> dict[str, int]:
    """Side of the tiles, and pixels of the sample from which a global context is gathered."""
    pixel = bytes_per_pixel(restorer.network, restorer.device)
    limit = min(auto_tile(restorer.network, restorer.device) ** 2, BUDGET_BYTES // pixel)
    if restorer.tile != "auto":
        return {"side": restorer.tile, "limit": limit}
    column = facts.width * (4 * restorer.network.config.channels + facts.bands * facts.dtype.itemsize)
    # side^2 * pixel + side * column = budget
    side = ((column**2 + 4 * pixel * BUDGET_BYTES) ** 0.5 - column) / (2 * pixel)
    return {"side": max(128, min(int(side), auto_tile(restorer.network, restorer.device)) // 64 * 64), "limit": limit}


def plan_tiles(restorer: Restorer, facts: RowFacts, side: int) -> tuple[list[Span], list[Span]]:
    """The rows and the columns of tiles of `side` pixels, over the padded picture."""
    height, width = (-(-length // PADDING) * PADDING for length in (facts.height, facts.width))
    return plan(height, *restorer.tiling(side)), plan(width, *restorer.tiling(side))


def context_of(
    restorer: Restorer, source: Path, facts: RowFacts, state: RowState, *, one_tile: bool, limit: int
) -> FullFrame:
    """Where the averages over the picture come from; a global context is gathered in a pass of its own, and kept."""
    if restorer.context == "local":
        return Local(restorer.window)
    if restorer.context == "tile" or one_tile:
        return FullFrame()
    means = state.means()
    if means is None:
        height, width = (-(-length // PADDING) * PADDING for length in (facts.height, facts.width))
        side, halo, corners = restorer.sample(height, width, limit)
        crops = []
        with open_rows(source) as reader:  # a pass of its own: rows are read once, from top to bottom
            for top in sorted({y for y, _ in corners}):
                count = min(side, facts.height - top)
                band = reader.read(top, count)
                vertical = mirrored(facts.height, top, top + side) - top
                for left in (x for y, x in corners if y == top):
                    columns = mirrored(facts.width, left, left + side)
                    crop, _ = to_channels(
                        _floats(band, columns, facts)[:, :, vertical], restorer.network.config.channels
                    )
                    crops.append(crop)
        with torch.inference_mode():
            means = restorer.gather(torch.cat(crops), halo)
        state.keep_means(means)
    return Shared([mean.to(restorer.device) for mean in means])
