"""Watching for new files: polled periodically, and processed once they stop growing."""

import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kbnet.errors import KBNetError
from kbnet.inference.naming import Job

SECONDS = 1.0
"""Between two polls. Polling works on every file system, including network shares; notifications do not."""

_LARGEST_SHARE = 10  # the pause is at least ten times as long as the poll took

_State = tuple[int, int]


class Watch:
    """The jobs for files that arrive in a folder.

    A file is processed when two polls find it unchanged, and again after it has changed. Results of this watch are
    never used as inputs. They are replaced when their input has changed, unless someone else has modified them.

    Args:
        plan: returns the jobs of all current files. Its errors are reported, and watching continues.
        report: called with the text of each new error of `plan`.
        sleep: waits for a number of seconds.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        plan: Callable[[], Sequence[Job]],
        report: Callable[[str], None],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._report, self._sleep, self._clock = plan, report, sleep, clock
        self._last: dict[Path, _State] = {}
        # with the problem that a file had, since that may be resolved without a change of the file
        self._taken: dict[Path, tuple[_State, str]] = {}
        self._made: dict[Path, tuple[_State, Path | bytes]] = {}  # outputs, and the inputs they were made from
        self._error = ""

    def batches(self) -> Iterator[list[Job]]:
        """Yield lists of jobs, without end; call `finished` for each job before requesting the next list."""
        while True:
            start = self._clock()
            found = self._look()
            took = self._clock() - start
            if found:
                yield found
            self._sleep(max(SECONDS, _LARGEST_SHARE * took))

    def finished(self, job: Job, *, made: bool) -> None:
        """Record whether the job's output is its result, rather than a file that was there before."""
        if not made or job.output is None:
            return
        state = _state(job.output)
        if state is not None:
            self._made[_place(job.output)] = (state, job.input)

    def _look(self) -> list[Job]:
        try:
            jobs = self._plan()
        except (KBNetError, OSError) as error:
            # the folder may be unavailable for a moment; keep watching
            if str(error) != self._error:
                self._error = str(error)
                self._report(self._error)
            return []
        self._error = ""
        return [taken for job in jobs if (taken := self._take(job)) is not None]

    def _take(self, job: Job) -> Job | None:
        if not isinstance(job.input, Path):
            return None
        path = _place(job.input)
        state = _state(path)
        if state is None or (path in self._made and self._made[path][0] == state):
            return None
        last, self._last[path] = self._last.get(path), state
        found = (state, str(job.problem or ""))
        if last != state or self._taken.get(path) == found:
            return None
        self._taken[path] = found
        return replace(job, overwrite=True) if self._is_own_result(job) else job

    def _is_own_result(self, job: Job) -> bool:
        """Whether the output is the unmodified result that this watch made from the same input."""
        if job.output is None or _place(job.output) not in self._made:
            return False
        state, source = self._made[_place(job.output)]
        return source == job.input and _state(job.output) == state


def _place(path: Path) -> Path:
    return path.absolute()


def _state(path: Path) -> _State | None:
    """Size and modification time of a file or folder; None if it no longer exists, or is a pipe or device."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return None
    return found.st_size, found.st_mtime_ns
