"""Files as they come: looked for again and again, taken once they have stopped growing."""

import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kbnet.errors import KBNetError
from kbnet.inference.naming import Job

SECONDS = 1.0
"""From one look to the next. Looking works on every file system, network shares included; notifications do not."""

_LARGEST_SHARE = 10  # a look that takes long is followed by a pause ten times as long

_State = tuple[int, int]


class Watch:
    """The jobs of a folder that files come into.

    A file is taken when it was the same at two looks, and again when it has changed. What this watch made itself is
    never taken for an input, and is replaced when its input has changed, as long as nobody else has changed it.

    Args:
        plan: the jobs of all files that are there now. Errors of it are reported, and the next look goes on.
        report: called with the text of each new error of `plan`.
        sleep: waits for so many seconds.
        clock: seconds from any start.
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
        # with the problem that a file had, for it may be gone though the file is the same
        self._taken: dict[Path, tuple[_State, str]] = {}
        self._made: dict[Path, tuple[_State, Path | bytes]] = {}  # outputs, and the inputs that they were made of
        self._error = ""

    def batches(self) -> Iterator[list[Job]]:
        """Lists of jobs, without end; each job is to be reported by `finished` before the next list is asked for."""
        while True:
            start = self._clock()
            found = self._look()
            took = self._clock() - start
            if found:
                yield found
            self._sleep(max(SECONDS, _LARGEST_SHARE * took))

    def finished(self, job: Job, *, ok: bool) -> None:
        """Take note of the result that a job has written, or has not."""
        if not ok or job.output is None:
            return
        state = _state(job.output)
        if state is not None:
            self._made[_place(job.output)] = (state, job.input)

    def _look(self) -> list[Job]:
        try:
            jobs = self._plan()
        except (KBNetError, OSError) as error:
            # the folder may be away for a moment; it is not this program's end
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
        """Whether the output is what this watch made of the same input before, and nobody has changed it."""
        if job.output is None or _place(job.output) not in self._made:
            return False
        state, source = self._made[_place(job.output)]
        return source == job.input and _state(job.output) == state


def _place(path: Path) -> Path:
    return path.absolute()


def _state(path: Path) -> _State | None:
    """Size and time of change of a file or folder; None if it has gone, or is a pipe or device."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return None
    return found.st_size, found.st_mtime_ns
