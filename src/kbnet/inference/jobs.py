"""Jobs over image files: each file is read, restored and written, with one Result per job.

    list of Job --run_jobs--> Result, Result, ...

Nothing is printed here. A failure is a Result too, so one bad file does not stop a folder.
"""

import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from kbnet.errors import InvalidInputError
from kbnet.imaging import DEFAULT_MAX_PIXELS
from kbnet.inference.failures import explain
from kbnet.inference.ledger import Ledger
from kbnet.inference.marking import MARKED_NOTE, is_marked
from kbnet.inference.naming import Job, plan_jobs
from kbnet.inference.overlap import Stage
from kbnet.inference.sidecars import copy_sidecars
from kbnet.inference.steps import (
    Develop,
    Examine,
    FileRestorer,
    PixelRestorer,
    Progress,
    Read,
    Result,
    Steps,
    is_full,
    times_of,
)

__all__ = ["FileRestorer", "Job", "PixelRestorer", "Result", "plan_jobs", "run_jobs"]

_LEFT_BEHIND = 5.0  # seconds to wait for a read that is no longer needed; a pipe may never deliver


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
    same_quality: bool = False,
    skip_existing: bool = False,
    sidecars: bool = False,
    mark: str = "",
    develop: Develop | None = None,
) -> Generator[Result]:
    """Restore the jobs in order, and yield a Result after each.

    While one image is restored, the next one is decoded and the previous one is encoded and written. A Result is
    yielded after its file is written and before any later file is. If the disk is full, the run ends after that Result.

    Errors raised by kbnet, the operating system or a lack of memory are reported in the Result. Anything else, such as
    an interruption, ends the iteration without leaving a partial file.

    Args:
        jobs: from `plan_jobs`, or created directly.
        restore: a `Restorer`.
        format: of the results; by default the output name decides, then the input's format.
        quality: 1 to 100, for JPEG, WebP and AVIF.
        overwrite: whether to replace existing files.
        drop_extras: whether a result may replace its own input even if that loses a second image, a sound or the raw
            data (`kbnet.imaging.extras.lost_extras`).
        keep_time: whether results get their input's access and modification times.
        max_pixels: larger images are refused before decoding.
        progress: called with (job, 0, 0) when a job starts, then with (job, tiles done, tiles in total).
        stream: restores from file to file, instead of reading, `restore` and writing; `max_pixels` is then ignored.
        ledger: the log of this run and earlier ones; jobs that it shows as done are skipped.
        examine: compares the pixels before and after, and returns a note for the user, or None.
        same_quality: whether JPEG results of JPEG files get their quantization tables and subsampling.
        skip_existing: whether jobs whose output exists are skipped.
        sidecars: whether .xmp and .aae files beside the input are copied beside the result.
        mark: the task for the mark in the results' metadata (`kbnet.inference.marking`); "" for no mark.
        develop: restores camera raw files before they are developed (`kbnet.inference.developing`), and returns their
            pixels, or None to restore the developed ones.
    """
    if stream is not None:
        replacing = {"overwrite": overwrite, "drop_extras": drop_extras, "skip_existing": skip_existing}
        yield from _run_streamed(jobs, stream, progress, replacing, keep_time=keep_time, sidecars=sidecars)
        return
    steps = Steps(
        restore,
        format=format,
        quality=quality,
        overwrite=overwrite,
        drop_extras=drop_extras,
        keep_time=keep_time,
        max_pixels=max_pixels,
        progress=progress,
        ledger=ledger,
        examine=examine,
        same_quality=same_quality,
        skip_existing=skip_existing,
        sidecars=sidecars,
        mark=mark,
        develop=develop,
    )
    yield from _run(jobs, steps)


def _run(jobs: Sequence[Job], steps: Steps) -> Generator[Result]:
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
                written, writing = writing.result(), None
                yield written
                if written.full:
                    return
            writing = writer.submit(steps.write, job, read)
        if writing is not None:
            yield writing.result()
    finally:
        steps.budget.close()
        reader.close(_LEFT_BEHIND)
        writer.close()


def _run_streamed(
    jobs: Sequence[Job],
    stream: FileRestorer,
    progress: Progress,
    replacing: dict[str, bool],
    *,
    keep_time: bool,
    sidecars: bool,
) -> Generator[Result]:
    skip = replacing.pop("skip_existing")
    for job in jobs:
        if skip and job.output is not None and os.path.lexists(job.output):
            yield Result(job, skipped=True)
            continue
        if job.searched and isinstance(job.input, Path) and is_marked(job.input):
            yield Result(job, skipped=True, notes=(MARKED_NOTE,))
            continue
        allowed = replacing | {"overwrite": replacing["overwrite"] or job.overwrite}
        done = _streamed(job, stream, progress, allowed, keep_time=keep_time)
        if sidecars and done.ok and isinstance(job.input, Path) and job.output is not None:
            notes = copy_sidecars(job.input, job.output, overwrite=allowed["overwrite"], upright=False)
            done = replace(done, notes=(*done.notes, *notes))
        yield done
        if done.full:
            return


def _streamed(
    job: Job, stream: FileRestorer, progress: Progress, replacing: dict[str, bool], *, keep_time: bool
) -> Result:
    progress(job, 0, 0)
    start = time.monotonic()
    try:
        if job.problem is not None:
            raise job.problem
        if isinstance(job.input, bytes) or job.output is None:
            raise InvalidInputError("--stream needs files, not a pipe; leave it out")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        times = times_of(job.input) if keep_time else None  # now, as the result may replace the input
        told = partial(progress, job)
        done = stream(job.input, job.output, times=times, progress=told, **replacing)
        resumed = (f"resumed after {done.resumed} of {done.tiles} tiles of an earlier run",) if done.resumed else ()
        notes = (*job.notes, *done.notes, *resumed)
        result = Result(job, width=done.width, height=done.height, notes=notes, channels=done.channels)
    except Exception as error:
        result = Result(job, error=explain(error, job), full=is_full(error))
    return replace(result, seconds=time.monotonic() - start)
