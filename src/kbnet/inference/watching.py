"""Files as they come: looked for again and again, taken once they have stopped growing."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kbnet.inference.naming import Job

SECONDS = 1.0
"""From one look to the next. Looking works on every file system, network shares included; notifications do not."""


def watch(plan: Callable[[], Sequence[Job]], *, sleep: Callable[[float], None] = time.sleep) -> Iterator[list[Job]]:
    """Lists of jobs whose inputs are new, or have changed, and were the same at two looks; never ends.

    Args:
        plan: the jobs of all files that are there now.
        sleep: waits for so many seconds.
    """
    last: dict[Path, tuple[int, int]] = {}
    taken: dict[Path, tuple[int, int]] = {}
    while True:
        found: list[Job] = []
        for job in plan():
            path = job.input
            state = _state(path) if isinstance(path, Path) else None
            if not isinstance(path, Path) or state is None or taken.get(path) == state:
                continue
            if last.get(path) == state:
                taken[path] = state
                found.append(job)
            last[path] = state
        if found:
            yield found
        sleep(SECONDS)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change, or None if it has gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
