"""Jobs over picture files: each read, restored and written, with one outcome for each.

    list of Job --run_jobs--> Result, Result, ...

Nothing is printed here, and a failure is a Result like any other: one bad file does not stop a folder.
"""

import contextlib
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace

from kbnet.errors import InvalidInputError
from kbnet.imaging import DEFAULT_MAX_PIXELS
from kbnet.inference.failures import explain
from kbnet.inference.ledger import Ledger
from kbnet.inference.naming import Job, plan_jobs
from kbnet.inference.overlap import Stage
from kbnet.inference.steps import Examine, FileRestorer, PixelRestorer, Progress, Read, Result, Steps, times_of

__all__ = ["FileRestorer", "Job", "PixelRestorer", "Result", "plan_jobs", "run_jobs"]

_LEFT_BEHIND = 5.0  # seconds to wait for the reading of a file that nobody wants any more; a pipe may never come


def run_jobs(
    jobs: Sequence[Job],
    restore: PixelRestorer,
    *,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    drop_extras: bool = False,
    keep_time: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = lambda job, done, total: None,
    stream: FileRestorer | None = None,
    ledger: Ledger | None = None,
    examine: Examine | None = None,
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
        drop_extras: whether an input may be replaced by its own result even if that loses a second picture, a video or
            a sound (`kbnet.imaging.Photo.extras`).
        keep_time: whether a result gets its input's times of access and change.
        max_pixels: larger pictures are refused before decoding.
        progress: called with (job, 0, 0) when a job begins, then with (job, tiles done, tiles in all).
        stream: restores from file to file in place of reading, `restore` and writing; then `max_pixels` is its own.
        ledger: the log of this run and of earlier ones: what it shows to be done is skipped.
        examine: looks at the pixels before and after, and returns a note for people, or None.
    """
    if stream is not None:
        for job in jobs:
            replacing = {"overwrite": overwrite or job.overwrite, "drop_extras": drop_extras}
            yield _streamed(job, stream, progress, replacing, keep_time=keep_time)
        return
    steps = Steps(restore, format, quality, overwrite, drop_extras, keep_time, max_pixels, progress, ledger, examine)
    reader, writer = Stage("kbnet-reader"), Stage("kbnet-writer")
    try:
        reading: Future[Read] | None = None
        writing: Future[Result] | None = None
        for number, job in enumerate(jobs):
            current = reading or reader.submit(steps.read, job)
            read = current.result()
            reading = reader.submit(steps.read, jobs[number + 1]) if number + 1 < len(jobs) else None
            steps.restore(job, read)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(steps.write, job, read)
        if writing is not None:
            yield writing.result()
    finally:
        steps.budget.close()
        reader.close(_LEFT_BEHIND)
        writer.close()


def _streamed(
    job: Job, stream: FileRestorer, progress: Progress, replacing: dict[str, bool], *, keep_time: bool
) -> Result:
    progress(job, 0, 0)
    start = time.monotonic()
    try:
        if job.problem is not None:
            raise job.problem
        if isinstance(job.input, bytes) or job.output is None:
            raise InvalidInputError("expected files to restore by rows, got a pipe; leave --stream out")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        done = stream(job.input, job.output, progress=lambda count, total: progress(job, count, total), **replacing)
        if keep_time and (times := times_of(job.input)) is not None:
            with contextlib.suppress(OSError):
                os.utime(job.output, ns=times)
        resumed = (f"resumed after {done.resumed} of {done.tiles} tiles of an earlier run",) if done.resumed else ()
        notes = (*job.notes, *done.notes, *resumed)
        result = Result(job, width=done.width, height=done.height, notes=notes)
    except Exception as error:
        result = Result(job, error=explain(error, job))
    return replace(result, seconds=time.monotonic() - start)
