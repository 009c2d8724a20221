"""Restoring pictures larger than memory: band by band of the same tiles that the Restorer would cut.

    rows of a file --bands.py: tiles, blended--> rowstate.py: a raw file of restored rows --> tiled BigTIFF or PNG

What a restart needs lies in a folder beside the result, so that an interrupted run goes on and ends with the same
picture. Memory depends on the picture's width, not on its height.
"""

import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kbnet import files
from kbnet.errors import InvalidInputError, OutputExistsError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging.extras import check_extras
from kbnet.imaging.rows import RowReader, check_row_target, open_rows, write_rows
from kbnet.inference.bands import Progress, context_of, plan_sizes, plan_tiles, restore_bands
from kbnet.inference.identity import digest, identity
from kbnet.inference.restorer import Restorer
from kbnet.inference.rowstate import RowState, folder_of


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
    times: files.Times | None = None,
    drop_extras: bool = False,
    progress: Progress = lambda done, total: None,
) -> Streamed:
    """Restore a picture file of any size into another, in memory that does not depend on its height.

    The tiles and averages are those of the Restorer on the whole picture, and so is the result. An interrupted run is
    taken up again by calling this with the same arguments; until then its rows lie in a hidden folder beside `target`,
    as large as the decoded picture. Where that state is damaged, or of another picture, other weights or settings, the
    run begins anew, with a note.

    Args:
        restorer: without ensemble; its tile "auto" is chosen by memory and the picture's width.
        source: TIFF, PNG or JPEG, not interlaced; it is read twice with a global context.
        target: .tif or .tiff (a tiled BigTIFF with a pyramid), or .png.
        strength: as for the Restorer.
        overwrite: whether `target` may be replaced.
        max_pixels: larger pictures are refused; None for any size.
        times: of access and change that the result is to have, in nanoseconds; None for the present.
        drop_extras: whether `target` may replace `source` even if that loses a second picture or layers.
        progress: called with (tiles done, tiles in all).

    Raises:
        InvalidInputError: an ensemble, the full frame (tile 0), or a strength outside [0,1].
        ImageError: as `kbnet.imaging.rows.open_rows` and `write_rows`; OutputError also where another process restores
            into the same target.
    """
    if restorer.ensemble:
        raise InvalidInputError(
            "an ensemble turns the whole picture, which does not fit into memory; leave --ensemble out"
        )
    if restorer.tile == 0:
        raise InvalidInputError("the full frame does not fit into memory; leave --tile out, or give its side in pixels")
    if not 0 <= strength <= 1:
        raise InvalidInputError(f"expected a strength from 0 to 1, got {strength}")
    refused = _refused(target, overwrite)
    with ExitStack() as stack:
        before = _facts(source)
        reader = stack.enter_context(open_rows(source, max_pixels=max_pixels))
        check_extras(reader.facts.extras, source, target, drop_extras=drop_extras)
        restorer = restorer.suited(1 if reader.facts.bands < 3 else 3)
        settings = {"identity": identity(restorer), "strength": strength}
        state = stack.enter_context(RowState(target, settings, digest(source), reader.facts))
        if state.finished_before():
            done = _finished(restorer, reader, state)
        elif refused is not None:
            if state.empty:
                state.remove()
            raise refused
        else:
            try:
                done = _restore(restorer, reader, source, state, strength, progress)
                if _facts(source) != before:
                    raise UnreadableImageError(
                        f"{files.printable(source)}: the file was changed while it was restored; start again"
                    )
            except (UnreadableImageError, UnsupportedImageError):
                with suppress(OSError):
                    digest(source)  # unless it is the storage that fails, the next run would end in the same way
                    state.remove()
                raise
            except Exception:
                if state.empty:
                    state.remove()
                raise
            lost = write_rows(
                state.rows(), reader.facts, target, overwrite=overwrite, times=times, announce=state.announce
            )
            done = replace(done, notes=(*done.notes, *lost))
        state.remove()
    return done


def _refused(target: Path, overwrite: bool) -> OutputExistsError | None:
    """Why the target is not written, where that is not certain yet: it may be the result of a run that was killed."""
    try:
        check_row_target(target, overwrite)
    except OutputExistsError as error:
        if not folder_of(target).is_dir():
            raise
        return error
    return None


def _facts(source: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    try:
        found = source.stat()
    except (OSError, ValueError):
        return ()  # opening says more
    if stat.S_ISFIFO(found.st_mode):
        raise UnsupportedImageError(f"{files.printable(source)}: a pipe is not read by rows; save it as a file first")
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
    return Streamed(facts.width, facts.height, len(rows) * len(cols), resumed * len(cols), notes)


def _finished(restorer: Restorer, reader: RowReader, state: RowState) -> Streamed:
    facts = reader.facts
    rows, cols = plan_tiles(restorer, facts, state.plan(lambda: plan_sizes(restorer, facts))["side"])
    tiles = len(rows) * len(cols)
    return Streamed(facts.width, facts.height, tiles, tiles, (*facts.notes, "an earlier run had finished it"))
