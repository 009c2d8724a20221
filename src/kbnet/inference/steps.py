"""The three steps of a job: read, restore, write. The first and the last run in their own threads."""

import errno
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kbnet import files
from kbnet.errors import NotEnoughMemoryError
from kbnet.imaging import ImageInfo, Photo, Pixels, plan_output, probe, read_photo, write_photo
from kbnet.imaging.extras import check_extras, lost_extras
from kbnet.imaging.photo import format_named
from kbnet.imaging.planning import format_of
from kbnet.inference.change import mean_change
from kbnet.inference.failures import check_output, explain
from kbnet.inference.ledger import Ledger, digest
from kbnet.inference.marking import MARKED_NOTE, is_marked, marked
from kbnet.inference.naming import Job
from kbnet.inference.overlap import Budget, Closed
from kbnet.inference.ram import check_memory, free_memory
from kbnet.inference.sidecars import copy_sidecars

if TYPE_CHECKING:
    from kbnet.inference.streaming import Streamed

FROM_RAW_NOTE = "noise removed before developing"

BYTES_AT_A_TIME = 2_000_000_000
"""For all images that are read, restored and written at the same time, up to three; a larger one is alone."""

COPIES = 6
"""Memory of an image in copies of its decoded samples: input, result, encoder; tests measure it."""

Progress = Callable[[Job, int, int], None]
Examine = Callable[[Pixels, Pixels], str | None]
Develop = Callable[[Photo, Callable[[int, int], None]], Pixels | None]


class PixelRestorer(Protocol):
    """Processes the pixels: a `Restorer`, or anything with the same call signature."""

    def __call__(self, image: Pixels, /, *, progress: Callable[[int, int], None]) -> Any: ...


class FileRestorer(Protocol):
    """Restores a file into another one: `kbnet.inference.streaming.restore_streamed` with its other arguments bound."""

    def __call__(
        self,
        source: Path,
        target: Path,
        /,
        *,
        overwrite: bool,
        drop_extras: bool,
        times: files.Times | None,
        progress: Callable[[int, int], None],
    ) -> "Streamed": ...


@dataclass(frozen=True)
class Result:
    """The outcome of a job.

    Attributes:
        job: the job.
        seconds: time spent, including reading and writing.
        error: one line that names the file (then nothing was written), or None on success.
        width, height: of the upright image; 0 if it could not be read.
        channels: of the restored image, without alpha; 0 if it was not restored.
        from_raw: whether the noise of a camera raw file was removed before it was developed.
        notes: one line for each change that naming, reading or writing had to make.
        data: the encoded result if the job has no output file.
        skipped: nothing was done, because the output is there already, or because the input is a result itself.
        proved: whether it was skipped because the log shows that the output is the result of this input.
        full: whether writing failed because the disk is full.
        extras: names of images, videos and sounds in the input that the output doesn't contain, as in `lost_extras`.
        change: mean absolute difference between the image and its result on the scale of [0,1]; None if it was not
            restored, or was restored by rows.
    """

    job: Job
    seconds: float = 0.0
    error: str | None = None
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    data: bytes | None = None
    skipped: bool = False
    change: float | None = None
    extras: tuple[str, ...] = ()
    full: bool = False
    proved: bool = False
    channels: int = 0
    from_raw: bool = False

    @property
    def made(self) -> bool:
        """Whether the output is the result of this input: written by this run, or by an earlier one with the log."""
        return self.ok and (self.proved or not self.skipped)

    @property
    def is_marked(self) -> bool:
        """Whether the input was skipped as a result of an earlier run."""
        return self.skipped and MARKED_NOTE in self.notes

    @property
    def ok(self) -> bool:
        """Whether the image was restored and written."""
        return self.error is None


@dataclass
class Read:
    """An image between its steps: decoded, skipped (if `proved`, known to be done), or not readable; then restored."""

    photo: Photo | None = None
    format: str = ""
    notes: tuple[str, ...] = ()
    input_digest: str = ""
    change: float | None = None
    booked: int = 0
    seconds: float = 0.0
    error: str | None = None
    proved: bool = False
    from_raw: bool = False
    restored: Photo | None = None


@dataclass
class Steps:
    """The steps of all jobs in a run; for the arguments see `run_jobs`."""

    network: PixelRestorer
    format: str | None
    quality: int | None
    overwrite: bool
    drop_extras: bool
    keep_time: bool
    max_pixels: int
    progress: Progress
    ledger: Ledger | None
    examine: Examine | None = None
    same_quality: bool = False
    skip_existing: bool = False
    sidecars: bool = False
    mark: str = ""
    develop: Develop | None = None

    def __post_init__(self) -> None:
        free = free_memory()
        self.budget = Budget(BYTES_AT_A_TIME if free is None else min(BYTES_AT_A_TIME, free // 2))

    def read(self, job: Job) -> Read:
        """Decode the image, and detect before the work whatever would fail after it."""
        start, read = time.monotonic(), Read()
        try:
            self._read(job, read)
        except Closed:
            raise
        except Exception as error:
            self.budget.give_back(read.booked)
            read = Read(error=explain(error, job))
        read.seconds = time.monotonic() - start
        return read

    def _read(self, job: Job, read: Read) -> None:
        if job.problem is not None:
            raise job.problem
        if job.searched and isinstance(job.input, Path) and is_marked(job.input):
            read.notes = (MARKED_NOTE,)
            return
        if self.skip_existing and job.output is not None and os.path.lexists(job.output):
            return
        # A pipe can be read only once, so its digest can't be compared with the log first.
        if self.ledger is not None and job.output is not None and _is_regular(job.input):
            read.input_digest = digest(job.input)
            source = job.input if isinstance(job.input, Path) else None
            read.proved = self.ledger.is_done(job.output, read.input_digest, source)
            if read.proved:
                return
        if job.output is not None:
            check_output(job.output, self.overwrite or job.overwrite)
        read.booked = self._book(job.input)
        read.photo = read_photo(job.input, max_pixels=self.max_pixels)
        named = None if job.output is None else format_named(job.output)
        read.format = format_of(self.format or named or read.photo.format)
        lost = lost_extras(read.photo, read.format)
        check_extras(lost, read.photo.source, job.output, drop_extras=self.drop_extras)
        # Planned before the work for notes and refusals; writing plans again with the restored pixels.
        _, notes = plan_output(read.photo, read.format)
        read.notes = (*job.notes, *read.photo.notes, *notes)

    def _book(self, source: Path | bytes) -> int:
        """Take a share of the memory for an image; wait for it if others have it.

        Raises:
            NotEnoughMemoryError: the image does not fit, even alone.
        """
        if not _is_regular(source):
            return self.budget.book(BYTES_AT_A_TIME)  # a pipe can be read only once, so its size is unknown
        info = probe(source)
        if info.width * info.height > self.max_pixels:
            return 0  # reading refuses it
        needed = bytes_of(info)
        booked = self.budget.book(needed)
        try:
            check_memory(info.width, info.height, needed)
            return booked
        except NotEnoughMemoryError:
            self.budget.give_back(booked)
        booked = self.budget.book(BYTES_AT_A_TIME)  # alone: what other images took is free by then
        try:
            check_memory(info.width, info.height, needed)
        except NotEnoughMemoryError:
            self.budget.give_back(booked)
            raise
        return booked

    def restore(self, job: Job, read: Read) -> None:
        """Restore the image, or note why that failed; nothing where it could not be read or is done."""
        self.progress(job, 0, 0)
        if read.photo is None:
            return
        start = time.monotonic()
        try:
            pixels, read.from_raw = self._restored(read.photo, lambda done, total: self.progress(job, done, total))
            read.change = mean_change(read.photo.pixels, pixels)
            if self.examine is not None and (note := self.examine(read.photo.pixels, pixels)) is not None:
                read.notes = (*read.notes, note)
            if read.from_raw:
                read.notes = (*read.notes, FROM_RAW_NOTE)
            metadata = marked(read.photo.metadata, self.mark) if self.mark else read.photo.metadata
            read.restored = replace(read.photo, pixels=pixels, metadata=metadata, undeveloped=None)
        except Exception as error:
            read.error = explain(error, job)
        finally:
            read.seconds += time.monotonic() - start
            read.photo = None  # the restored one is enough

    def _restored(self, photo: Photo, progress: Callable[[int, int], None]) -> tuple[Pixels, bool]:
        """The restored pixels, and whether they were developed from a restored camera raw file."""
        if self.develop is not None and photo.undeveloped is not None:
            developed = self.develop(photo, progress)
            if developed is not None:
                return developed, True
        return self.network(photo.pixels, progress=progress), False

    def write(self, job: Job, read: Read) -> Result:
        """Encode the image and write it; return the outcome, which is also logged."""
        start, data = time.monotonic(), None
        skipped = read.error is None and read.restored is None
        notes = read.notes if skipped else ()
        result = Result(job, error=read.error, skipped=skipped, proved=read.proved, notes=notes)
        if read.restored is not None:
            result = Result(job, 0.0, None, read.restored.width, read.restored.height, read.notes)
            result = replace(
                result,
                change=read.change,
                extras=lost_extras(read.restored, read.format),
                from_raw=read.from_raw,
                channels=1 if read.restored.pixels.ndim == 2 else read.restored.pixels.shape[2],
            )
            try:
                data, notes = self._write(job, read, read.restored)
                result = replace(result, notes=(*result.notes, *notes))
            except Exception as error:
                result = Result(job, error=explain(error, job), full=is_full(error))
            read.restored = None  # before its memory is promised to another
        self.budget.give_back(read.booked)
        result = replace(result, data=data, seconds=read.seconds + time.monotonic() - start)
        if self.ledger is not None:
            self.ledger.tell(
                job.name, job.output, result.error, result.seconds, result.width, result.height, skipped=result.skipped
            )
        return result

    def _write(self, job: Job, read: Read, photo: Photo) -> tuple[bytes | None, tuple[str, ...]]:
        """Write the result, or return its bytes; also return notes on what accompanies it."""
        data = write_photo(photo, None, format=read.format, quality=self.quality, same_quality=self.same_quality)
        assert data is not None
        if job.output is None:
            return data, ()
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if self.ledger is not None:
            self.ledger.promise(job.output, read.input_digest, data)
        times = times_of(job.input) if self.keep_time and isinstance(job.input, Path) else None
        overwrite, like = self.overwrite or job.overwrite, job.input if isinstance(job.input, Path) else None
        files.write(data, job.output, overwrite=overwrite, times=times, like=like)
        if self.sidecars and like is not None:
            return None, copy_sidecars(like, job.output, overwrite=overwrite)
        return None, ()


def is_full(error: Exception) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def times_of(source: Path) -> files.Times | None:
    """Access and modification time of a file; None for a pipe, or if it no longer exists."""
    try:
        state = source.stat()
    except OSError:
        return None
    return (state.st_atime_ns, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _is_regular(source: Path | bytes) -> bool:
    return isinstance(source, bytes) or stat.S_ISREG(source.stat().st_mode)


def bytes_of(info: ImageInfo) -> int:
    """Memory that an image takes from reading to writing, besides the tiles at work."""
    samples = {"gray": 1, "RGB": 3, "CMYK": 4}[info.colour] + info.has_alpha
    size = 1 if info.bit_depth <= 8 else 2 if info.bit_depth <= 16 else 4  # bytes
    return info.width * info.height * samples * size * COPIES
