"""Jobs over picture files: each read, restored and written, with one outcome for each.

    list of Job --run_jobs--> Result, Result, ...

Nothing is printed here, and a failure is a Result like any other: one bad file does not stop a folder.
"""

import os
import stat
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kbnet.errors import InvalidInputError, KBNetError, OutputError, OutputExistsError
from kbnet.imaging import (
    DEFAULT_MAX_PIXELS,
    Photo,
    Pixels,
    is_supported,
    plan_output,
    probe,
    publish,
    read_photo,
    write_photo,
)
from kbnet.imaging.photo import printable
from kbnet.imaging.planning import format_of
from kbnet.inference.ledger import Ledger, digest
from kbnet.inference.naming import Job, is_folder, plan_jobs
from kbnet.inference.overlap import Budget, Closed, Stage

if TYPE_CHECKING:
    from kbnet.inference.streaming import Streamed

__all__ = ["Job", "Restore", "Result", "Stream", "plan_jobs", "run_jobs"]

PIXELS_AT_A_TIME = 100_000_000
"""Of the pictures that are decoded at a time, up to three; a larger one is alone."""

_LEFT_BEHIND = 5.0  # seconds to wait for the reading of a file that nobody wants any more; a pipe may never come
# How PyTorch says that memory ran out, where it has no exception of its own for that.
_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


class Restore(Protocol):
    """What is done to the pixels: a `Restorer`, or anything else that is called like one."""

    def __call__(self, image: Pixels, /, *, progress: Callable[[int, int], None]) -> Any: ...


class Stream(Protocol):
    """What restores a file into another: `kbnet.inference.streaming.restore_streamed` with its other arguments set."""

    def __call__(self, source: Path, target: Path, /, *, progress: Callable[[int, int], None]) -> "Streamed": ...


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        job: the job.
        seconds: spent on it, reading and writing included.
        error: one line naming the file, or None if all went well; then nothing was written.
        width, height: of the picture as shown, 0 if it could not be read.
        notes: one line for each thing that reading or writing had to change.
        data: the encoded result where the job names no output.
        skipped: an earlier run wrote the output already, by its log; nothing was done now.
    """

    job: Job
    seconds: float = 0.0
    error: str | None = None
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    data: bytes | None = None
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Whether the picture was restored and written."""
        return self.error is None


@dataclass
class _Read:
    """A picture on its way: decoded, or known to be done, or why it could not be read."""

    photo: Photo | None = None
    format: str = ""
    notes: tuple[str, ...] = ()
    input_digest: str = ""
    booked: int = 0
    seconds: float = 0.0
    error: str | None = None


def run_jobs(
    jobs: Sequence[Job],
    restore: Restore,
    *,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Callable[[Job, int, int], None] = lambda job, done, total: None,
    stream: Stream | None = None,
    ledger: Ledger | None = None,
) -> Generator[Result]:
    """Restore the jobs in order, yielding a Result after each.

    The next picture is decoded, and the last one encoded and written, while one is restored. A result is told once it
    is written, and then nothing that comes after it has been.

    Errors of kbnet, of the operating system and of memory become the Result's; anything else, an interruption above
    all, ends the iteration, with no partial file left.

    Args:
        jobs: from `plan_jobs`, or made by hand.
        restore: a `Restorer`.
        format: of the results, by default as their names say, else as the input's.
        quality: 1 to 100, of JPEG, WebP and AVIF.
        overwrite: whether existing files may be replaced.
        max_pixels: larger pictures are refused before decoding.
        progress: called with (job, 0, 0) when a job begins, then with (job, tiles done, tiles in all).
        stream: restores from file to file in place of reading, `restore` and writing; then `max_pixels` is its own.
        ledger: the log of this run and of earlier ones: what it shows to be done is skipped.
    """
    if stream is not None:
        yield from (_streamed(job, stream, progress) for job in jobs)
        return
    run = _Run(restore, format, quality, overwrite, max_pixels, progress, ledger)
    reader, writer = Stage("kbnet-reader"), Stage("kbnet-writer")
    try:
        reading: Future[_Read] | None = None
        writing: Future[Result] | None = None
        for number, job in enumerate(jobs):
            current = reading or reader.submit(run.read, job)
            read = current.result()
            reading = reader.submit(run.read, jobs[number + 1]) if number + 1 < len(jobs) else None
            begun = run.restore(job, read)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(run.write, job, read, begun)
        if writing is not None:
            yield writing.result()
    finally:
        run.budget.close()
        reader.close(_LEFT_BEHIND)
        writer.close()


def _streamed(job: Job, stream: Stream, progress: Callable[[Job, int, int], None]) -> Result:
    progress(job, 0, 0)
    start = time.monotonic()
    try:
        if job.problem is not None:
            raise job.problem
        if isinstance(job.input, bytes) or job.output is None:
            raise InvalidInputError("expected files to restore by rows, got a pipe; leave --stream out")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        done = stream(job.input, job.output, progress=lambda count, total: progress(job, count, total))
        resumed = (f"went on after {done.resumed} of {done.tiles} tiles of an earlier run",) if done.resumed else ()
        result = Result(job, width=done.width, height=done.height, notes=(*done.notes, *resumed))
    except Exception as error:
        result = Result(job, error=_explain(error, job))
    return replace(result, seconds=time.monotonic() - start)


@dataclass
class _Run:
    """The three steps of a job; `read` and `write` run in threads of their own."""

    network: Restore
    format: str | None
    quality: int | None
    overwrite: bool
    max_pixels: int
    progress: Callable[[Job, int, int], None]
    ledger: Ledger | None

    def __post_init__(self) -> None:
        self.budget = Budget(PIXELS_AT_A_TIME)

    def read(self, job: Job) -> _Read:
        """Decode the picture, and refuse before the work what would be refused after it."""
        start, read = time.monotonic(), _Read()
        try:
            self._read(job, read)
        except Closed:
            raise
        except Exception as error:
            self.budget.give_back(read.booked)
            read = _Read(error=_explain(error, job))
        read.seconds = time.monotonic() - start
        return read

    def _read(self, job: Job, read: _Read) -> None:
        if job.problem is not None:
            raise job.problem
        if self.ledger is not None and job.output is not None and isinstance(job.input, Path):
            read.input_digest = digest(job.input)
            if self.ledger.is_done(job.output, read.input_digest):
                return
        if job.output is not None:
            _check_output(job.output, self.overwrite)
        read.booked = self.budget.book(_pixels(job.input, self.max_pixels))
        read.photo = read_photo(job.input, max_pixels=self.max_pixels)
        named = job.output.suffix if job.output is not None and is_supported(job.output) else read.photo.format
        read.format = format_of(self.format or named)
        # Planned once before the work, for its notes and its refusals; writing plans again, with the restored pixels.
        _, lost = plan_output(read.photo, read.format)
        read.notes = (*read.photo.notes, *lost)

    def restore(self, job: Job, read: _Read) -> Photo | str | None:
        """The restored picture, or why there is none, or None where there is nothing to do."""
        self.progress(job, 0, 0)
        if read.error is not None or read.photo is None:
            return read.error
        start = time.monotonic()
        try:
            pixels = self.network(read.photo.pixels, progress=lambda done, total: self.progress(job, done, total))
            return replace(read.photo, pixels=pixels)
        except Exception as error:
            return _explain(error, job)
        finally:
            read.seconds += time.monotonic() - start

    def write(self, job: Job, read: _Read, restored: Photo | str | None) -> Result:
        """Encode the picture and put it in its place; the outcome, which goes into the log."""
        start, data = time.monotonic(), None
        result = Result(job, error=restored if isinstance(restored, str) else None, skipped=restored is None)
        if isinstance(restored, Photo):
            read.photo = None  # the restored one is enough
            result = Result(job, width=restored.width, height=restored.height, notes=read.notes)
            try:
                data = self._write(job, read, restored)
            except Exception as error:
                result = Result(job, error=_explain(error, job))
            finally:
                self.budget.give_back(read.booked)
        elif read.booked:
            self.budget.give_back(read.booked)
        result = replace(result, data=data, seconds=read.seconds + time.monotonic() - start)
        if self.ledger is not None:
            self.ledger.tell(
                job.name, job.output, result.error, result.seconds, result.width, result.height, skipped=result.skipped
            )
        return result

    def _write(self, job: Job, read: _Read, photo: Photo) -> bytes | None:
        data = write_photo(photo, None, format=read.format, quality=self.quality)
        assert data is not None
        if job.output is None:
            return data
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if self.ledger is not None:
            self.ledger.promise(job.output, read.input_digest, data)
        publish(data, job.output, overwrite=self.overwrite)
        return None


def _pixels(source: Path | bytes, most: int) -> int:
    """Of the picture, by its header; `most` for a pipe, which can be read only once."""
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        return most
    info = probe(source)
    return min(info.width * info.height, most)


def _explain(error: Exception, job: Job) -> str:
    if isinstance(error, KBNetError):
        text = str(error)
    elif isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_MESSAGES):
        text = "not enough memory; give a smaller --tile, or close other programs"
    elif isinstance(error, OSError):
        text = (error.strerror or str(error)).lower()
    else:
        raise error  # a mistake in the program, which no other file would be spared
    names = (job.name, "" if job.output is None else printable(job.output))
    return text if text.startswith(tuple(filter(None, names))) else f"{job.name}: {text}"


def _check_output(path: Path, overwrite: bool) -> None:
    """Refuse before the minutes of work what would be refused after them."""
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{printable(path)}: the file exists; choose another name or give --overwrite")
    # not made absolute: the folders above the working one may be closed to us
    parent = next(filter(os.path.lexists, path.parents), path.parent)
    if not is_folder(parent):
        raise OutputError(f"{printable(path)}: cannot be written: {printable(parent)} is not a folder; choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{printable(path)}: cannot be written: no permission to write in {printable(parent)}; choose another"
        )
