"""Restore images larger than memory, in bands of the same tiles that the Restorer uses.

    rows of a file --bands.py: tiles, blended--> rowstate.py: a raw file of restored rows --> tiled BigTIFF or PNG

The state of a run is in a folder beside the result, so that an interrupted run can resume and produce the same image.
Memory depends on the image's width, not on its height.
"""

import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kbnet import files
from kbnet.errors import InvalidInputError, OutputExistsError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging.extras import check_extras
from kbnet.imaging.rows import RowReader, check_row_target, open_rows, write_rows
from kbnet.inference.bands import Progress, context_of, mix_rows, plan_sizes, plan_tiles, restore_bands
from kbnet.inference.identity import digest, identity
from kbnet.inference.look import Look
from kbnet.inference.marking import marked
from kbnet.inference.restorer import Restorer
from kbnet.inference.rowstate import RowState, folder_of


@dataclass(frozen=True)
class Streamed:
    """A restored image: size in pixels, number of tiles, how many came from an earlier run, notes, and channels."""

    width: int
    height: int
    tiles: int
    resumed: int
    notes: tuple[str, ...]
    channels: int  # without alpha


def restore_streamed(
    restorer: Restorer,
    source: Path,
    target: Path,
    *,
    strength: float = 1.0,
    color_strength: float | None = None,
    detail: float = 0.0,
    overwrite: bool = False,
    max_pixels: int | None = None,
    times: files.Times | None = None,
    drop_extras: bool = False,
    mark: str = "",
    progress: Progress = lambda done, total: None,
) -> Streamed:
    """Restore an image file of any size into another file, in memory that does not depend on the height.

    Tiles, averages and result are the same as if the Restorer had the whole image. To resume an interrupted run, call
    this again with the same arguments; until then, its rows are kept in a hidden folder beside `target` that is as
    large as the decoded image. If that state is damaged or belongs to another image, other weights or other
    settings, the run starts over, with a note.

    Args:
        restorer: without ensemble. With tile "auto", the tile depends on memory and the image's width.
        source: TIFF, PNG or JPEG, not interlaced; with a global context it is read twice.
        target: .tif or .tiff (a tiled BigTIFF with a pyramid), or .png.
        strength, color_strength, detail: as for the Restorer. With a color strength that differs, or detail, the state
            needs twice the disk space, and the source is read once more.
        overwrite: whether to replace `target`.
        max_pixels: larger images are refused; None for any size.
        times: access and modification times of the result in nanoseconds; None for the current time.
        drop_extras: whether `target` may replace `source` even if that loses a second image or layers.
        mark: the task for the mark in the result's metadata, or "" for none.
        progress: called with (tiles done, tiles in total).

    Raises:
        InvalidInputError: an ensemble, the full frame (tile 0), or a strength or detail outside [0,1].
        ImageError: as `kbnet.imaging.rows.open_rows` and `write_rows`; also OutputError if another process is
            restoring into the same target.
    """
    if restorer.ensemble:
        raise InvalidInputError(
            "an ensemble rotates the whole image, which doesn't fit into memory; leave out --ensemble"
        )
    if restorer.tile == 0:
        raise InvalidInputError(
            "the full frame doesn't fit into memory; leave out --tile, or set it to a number of pixels"
        )
    look = Look(strength, color_strength, detail)
    refused = _refused(target, overwrite)
    with ExitStack() as stack:
        before = _facts(source)
        reader = stack.enter_context(open_rows(source, max_pixels=max_pixels))
        check_extras(reader.facts.extras, source, target, drop_extras=drop_extras)
        restorer = restorer.suited(_channels(reader))
        settings = {"identity": identity(restorer), **look.settings()}
        state = stack.enter_context(RowState(target, settings, source, reader.facts))
        if state.finished_before():
            done = _finished(restorer, reader, state)
        elif refused is not None:
            if state.empty:
                state.remove()
            raise refused
        else:
            try:
                done = _restore(restorer, reader, source, state, look.strength if look.is_plain else 1.0, progress)
                rows = state.rows() if look.is_plain else mix_rows(source, state.rows(), reader.facts, look)
                if _facts(source) != before:
                    raise UnreadableImageError(
                        f"{files.printable(source)}: the file changed while it was being restored; repeat the command"
                    )
            except (UnreadableImageError, UnsupportedImageError):
                with suppress(OSError):
                    digest(source)  # if the storage still works, the next run would fail in the same way
                    state.remove()
                raise
            except Exception:
                if state.empty:
                    state.remove()
                raise
            facts = reader.facts
            facts = replace(facts, metadata=marked(facts.metadata, mark)) if mark else facts
            lost = write_rows(
                rows, facts, target, overwrite=overwrite, times=times, like=source, announce=state.announce
            )
            done = replace(done, notes=(*done.notes, *lost))
        state.remove()
    return done


def _channels(reader: RowReader) -> int:
    return 1 if reader.facts.bands < 3 else 3


def _refused(target: Path, overwrite: bool) -> OutputExistsError | None:
    """The error for an existing target, if it may be the finished result of a run that was killed; else raise it."""
    try:
        check_row_target(target, overwrite)
    except OutputExistsError as error:
        if not folder_of(target).is_dir():
            raise
        return error
    return None


def _facts(source: Path) -> tuple[int, ...]:
    """Values that change when the file changes."""
    try:
        found = source.stat()
    except (OSError, ValueError):
        return ()  # opening it gives a better message
    if stat.S_ISFIFO(found.st_mode):
        raise UnsupportedImageError(
            f"{files.printable(source)}: --stream needs a file, not a pipe; save the input to a file first"
        )
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _restore(
    restorer: Restorer, reader: RowReader, source: Path, state: RowState, strength: float, progress: Progress
) -> Streamed:
    facts, resumed = reader.facts, state.done
    sizes = state.plan(lambda: plan_sizes(restorer, facts))
    rows, cols = plan_tiles(restorer, facts, sizes["side"])
    one_tile = len(rows) == len(cols) == 1
    context = context_of(restorer, source, facts, state, one_tile=one_tile, limit=sizes["limit"])
    restore_bands(restorer, reader, rows, cols, context, state, strength, progress)
    notes = (*facts.notes, *filter(None, [state.note]))
    return Streamed(facts.width, facts.height, len(rows) * len(cols), resumed * len(cols), notes, _channels(reader))


def _finished(restorer: Restorer, reader: RowReader, state: RowState) -> Streamed:
    facts = reader.facts
    rows, cols = plan_tiles(restorer, facts, state.plan(lambda: plan_sizes(restorer, facts))["side"])
    tiles = len(rows) * len(cols)
    notes = (*facts.notes, "already finished by an earlier run")
    return Streamed(facts.width, facts.height, tiles, tiles, notes, _channels(reader))
