"""Restoring pictures larger than memory: band by band of the same tiles that the Restorer would cut.

    rows of a file --bands of tiles, blended--> a raw file of restored rows --> tiled BigTIFF or PNG

A band is a row of tiles across the picture. Where two bands overlap, the sums of the upper are carried into the lower.
What a restart needs (rows done, the carried sums, shared averages) lies in a folder beside the result, so that an
interrupted run goes on and ends with the same picture. Memory depends on the picture's width, not on its height.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kbnet.errors import InvalidInputError, OutputError
from kbnet.imaging import Pixels
from kbnet.imaging.photo import printable
from kbnet.imaging.rows import RowFacts, RowReader, check_row_target, open_rows, write_rows
from kbnet.inference.arrays import to_channels
from kbnet.inference.memory import auto_tile, bytes_per_pixel
from kbnet.inference.restorer import PADDING, Restorer
from kbnet.inference.tiles import Span, mirrored, plan
from kbnet.nn import FullFrame, Local, Shared

BUDGET_BYTES = 512 * 2**20
"""For a tile's activations and a band's sums together; a process has 300 MB more."""

Progress = Callable[[int, int], None]

_STATE, _ROWS, _MEANS = "state.json", "rows.raw", "means.npz"
_LINES = 64  # rows that are turned into the picture's samples at once


@dataclass(frozen=True)
class Streamed:
    """What was restored: size in pixels, tiles, how many were there from an earlier run, and notes."""

    width: int
    height: int
    tiles: int
    resumed: int
    notes: tuple[str, ...]


def restore_streamed(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    strength: float = 1.0,
    overwrite: bool = False,
    max_pixels: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Streamed:
    """Restore a picture file of any size into another, in memory that does not depend on its height.

    The tiles and averages are those of the Restorer on the whole picture, and so is the result. An interrupted run is
    taken up again by calling this with the same arguments; until then its rows lie in a hidden folder beside `target`,
    as large as the decoded picture.

    Args:
        restorer: without ensemble; its tile "auto" is chosen by memory and the picture's width.
        source: TIFF, PNG or JPEG, not interlaced; it is read twice with a global context.
        target: .tif or .tiff (a tiled BigTIFF with a pyramid), or .png.
        strength: as for the Restorer.
        overwrite: whether `target` may be replaced.
        max_pixels: larger pictures are refused; None for any size.
        progress: called with (tiles done, tiles in all).

    Raises:
        InvalidInputError: an ensemble, the full frame (tile 0), or a strength outside [0,1].
        ImageError: as `kbnet.imaging.rows.open_rows` and `write_rows`.
    """
    if restorer.ensemble:
        raise InvalidInputError(
            "an ensemble turns the whole picture, which does not fit into memory; leave --ensemble out"
        )
    if restorer.tile == 0:
        raise InvalidInputError("the full frame does not fit into memory; leave --tile out, or give its side in pixels")
    if not 0 <= strength <= 1:
        raise InvalidInputError(f"expected a strength from 0 to 1, got {strength}")
    check_row_target(target, overwrite)
    with ExitStack() as stack:
        reader = stack.enter_context(open_rows(source, max_pixels=max_pixels))
        facts = reader.facts
        restorer = restorer.suited(1 if facts.bands < 3 else 3)
        folder = stack.enter_context(_Folder(target, _fingerprint(restorer, source, strength), facts))
        settings = folder.settings(lambda: _settings(restorer, facts))
        rows, cols = _plans(restorer, facts, settings["side"])
        whole = len(rows) == len(cols) == 1
        context = FullFrame() if whole and restorer.context != "local" else _context(restorer, source, facts, folder)
        resumed = folder.done
        _bands(restorer, reader, rows, cols, context, folder, strength, progress)
        folder.finish(target, facts, overwrite)
    return Streamed(facts.width, facts.height, len(rows) * len(cols), resumed * len(cols), facts.notes)


def _bands(
    restorer: Restorer,
    reader: RowReader,
    rows: Sequence[Span],
    cols: Sequence[Span],
    context: FullFrame,
    folder: "_Folder",
    strength: float,
    progress: Progress,
) -> None:
    facts = reader.facts
    start = folder.done
    carried = folder.carried()
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
            folder.write(span.start + top, _samples(band[part], sums[:, :, part, : facts.width], facts, strength))
        carried = sums[:, :, final:].clone() if i + 1 < len(rows) else None
        folder.commit(i + 1, carried)


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


def _settings(restorer: Restorer, facts: RowFacts) -> dict[str, int]:
    """Side of the tiles, and pixels of the sample from which a global context is gathered."""
    pixel = bytes_per_pixel(restorer.network, restorer.device)
    limit = min(auto_tile(restorer.network, restorer.device) ** 2, BUDGET_BYTES // pixel)
    if restorer.tile != "auto":
        return {"side": restorer.tile, "limit": limit}
    column = facts.width * (4 * restorer.network.config.channels + facts.bands * facts.dtype.itemsize)
    # side^2 * pixel + side * column = budget
    side = ((column**2 + 4 * pixel * BUDGET_BYTES) ** 0.5 - column) / (2 * pixel)
    return {"side": max(128, min(int(side), auto_tile(restorer.network, restorer.device)) // 64 * 64), "limit": limit}


def _plans(restorer: Restorer, facts: RowFacts, side: int) -> tuple[list[Span], list[Span]]:
    height, width = (-(-length // PADDING) * PADDING for length in (facts.height, facts.width))
    return plan(height, *restorer.tiling(side)), plan(width, *restorer.tiling(side))


def _context(restorer: Restorer, source: Path, facts: RowFacts, folder: "_Folder") -> FullFrame:
    if restorer.context == "local":
        return Local(restorer.window)
    if restorer.context == "tile":
        return FullFrame()
    means = folder.means()
    if means is None:
        height, width = (-(-length // PADDING) * PADDING for length in (facts.height, facts.width))
        side, halo, corners = restorer.sample(height, width, folder.settings(lambda: {})["limit"])
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
        folder.keep_means(means)
    return Shared([mean.to(restorer.device) for mean in means])


def _fingerprint(restorer: Restorer, source: Path, strength: float) -> dict[str, Any]:
    stat = source.stat()
    weights = restorer.network.state_dict() if isinstance(restorer.network, torch.nn.Module) else {}
    # enough to notice other weights under the same name
    sample = float(sum(float(value.double().abs().sum()) for value in weights.values()))
    about = {**restorer.describe(), "strength": strength, "weights": sample}
    return {"source": [str(source.resolve()), stat.st_size, stat.st_mtime_ns], **about}


class _Folder:
    """The state of a run, in a hidden folder beside its result."""

    def __init__(self, target: Path, fingerprint: dict[str, Any], facts: RowFacts) -> None:
        self._path = target.with_name(f".{target.name}.kbnet-rows")
        self._name, self._facts = printable(target), facts
        self._state: dict[str, Any] = {"of": fingerprint, "done": 0}
        # as JSON gives it back, tuples being lists there
        wanted = json.loads(json.dumps(fingerprint))
        try:
            found = json.loads((self._path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if isinstance(found, dict) and found.get("of") == wanted:
            self._state = found
        else:
            shutil.rmtree(self._path, ignore_errors=True)
        try:
            self._path.mkdir(exist_ok=True)
            self._rows = (self._path / _ROWS).open("r+b" if (self._path / _ROWS).exists() else "w+b")
        except OSError as error:
            raise self._failed(error) from None

    def __enter__(self) -> "_Folder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rows.close()

    @property
    def done(self) -> int:
        """Bands that are finished."""
        return int(self._state["done"])

    def settings(self, make: Callable[[], dict[str, int]]) -> dict[str, int]:
        """Those of the run, made once: free memory, which they depend on, may be another after a restart."""
        if "settings" not in self._state:
            self._state["settings"] = make()
            self._save()
        found: dict[str, int] = self._state["settings"]
        return found

    def means(self) -> list[Tensor] | None:
        """Shared averages that were kept, or None."""
        if not (self._path / _MEANS).exists():
            return None
        with np.load(self._path / _MEANS) as stored:
            return [torch.from_numpy(stored[name]) for name in stored.files]

    def keep_means(self, means: Sequence[Tensor]) -> None:
        """Keep shared averages."""
        arrays: dict[str, NDArray[Any]] = {f"mean{i:04}": mean.float().cpu().numpy() for i, mean in enumerate(means)}
        self._replace(_MEANS, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # names, not allow_pickle

    def carried(self) -> Tensor | None:
        """Sums that the finished bands left for the next, [1,C,h,width]."""
        path = self._path / f"carried-{self.done}.npy"
        return torch.from_numpy(np.load(path)) if path.exists() else None

    def write(self, top: int, samples: Pixels) -> None:
        """Put restored rows [h,width,bands] into their place."""
        row = self._facts.width * self._facts.bands * self._facts.dtype.itemsize
        try:
            self._rows.seek(top * row)
            self._rows.write(np.ascontiguousarray(samples).data)
        except OSError as error:
            raise self._failed(error) from None

    def commit(self, done: int, carried: Tensor | None) -> None:
        """Count bands as finished: first what they consist of reaches the disk, then the word."""
        try:
            self._rows.flush()
            os.fsync(self._rows.fileno())
        except OSError as error:
            raise self._failed(error) from None
        if carried is not None:
            self._replace(f"carried-{done}.npy", lambda file: np.save(file, carried.numpy()))
        self._state["done"] = done
        self._save()
        (self._path / f"carried-{done - 1}.npy").unlink(missing_ok=True)

    def finish(self, target: Path, facts: RowFacts, overwrite: bool) -> None:
        """Make the picture, and leave nothing else."""
        self._rows.close()
        write_rows(self._path / _ROWS, facts, target, overwrite=overwrite)
        shutil.rmtree(self._path, ignore_errors=True)

    def _save(self) -> None:
        text = json.dumps(self._state)
        self._replace(_STATE, lambda file: file.write(text.encode()))

    def _replace(self, name: str, write: Callable[[Any], object]) -> None:
        temporary = self._path / f"{name}.new"
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path / name)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self._name}: its rows cannot be kept: {error.strerror or error}; is there space left?")
