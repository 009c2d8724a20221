"""One picture to restore: what is asked for, how far it is, and what comes back."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from kbnet.errors import ImageError
from kbnet.imaging import Pixels, probe
from kbnet.server.replies import Refused

SMALL_PIXELS, TOGETHER = 128 * 128, 8
"""Pictures up to this size are restored so many at a time; larger ones gain nothing (benchmarks/batches.py)."""


class Restore(Protocol):
    """What is done to the pixels: a `Restorer`, or anything else that is called like one."""

    def __call__(self, image: Pixels, /, *, strength: float, progress: Callable[[int, int], None]) -> Any: ...

    def together(self, images: Sequence[Pixels], /, *, strength: float) -> list[Any]:
        """The same of several of one size."""
        ...


@dataclass(frozen=True)
class Restoration:
    """One picture to restore: the bytes of its file, the task or model, and how.

    `keep` asks for the restored pixels beside the file. `request` is the id of the request in the log.
    """

    data: bytes = field(repr=False)
    task: str
    strength: float = 1.0
    format: str | None = None
    keep: bool = False
    request: str = "-"


@dataclass(frozen=True)
class Restored:
    """The encoded result, its format, size, what was changed on the way, and the seconds of work.

    `change` is the mean absolute difference of the restored pixels and those sent, from 0 to 1. `pixels` are the
    restored ones if they were asked for.
    """

    data: bytes = field(repr=False)
    format: str
    width: int
    height: int
    notes: tuple[str, ...]
    seconds: float
    change: float
    pixels: Pixels | None = field(default=None, repr=False)


class Pending:
    """A restoration on its way. `future` ends with a Restored or an exception."""

    def __init__(self, what: Restoration, deadline: float) -> None:
        self.what = what
        self.deadline = deadline
        self.future: Future[Restored] = Future()
        self.done = self.total = 0  # tiles; total 0 until the network begins
        self.pixels = 0  # known when it is decoded
        self.began: float | None = None  # on the clock of time.monotonic
        self.abandoned = False

    @cached_property
    def kind(self) -> tuple[object, ...] | None:
        """Equal for small pictures that may be restored in one pass, by their headers; None for others."""
        try:
            info = probe(self.what.data)
        except ImageError:
            return None  # it will be refused in its turn
        if info.width * info.height > SMALL_PIXELS or self.what.strength == 0:
            return None
        return self.what.task, self.what.strength, info.width, info.height

    def check(self) -> None:
        """Raise if there is no sense in going on."""
        if self.abandoned:
            raise Refused(503, "the sender has gone")
        if time.monotonic() > self.deadline:
            raise overdue()

    def advance(self, done: int, total: int) -> None:
        """A Restorer's progress."""
        self.done, self.total = done, total
        if done < total:
            self.check()


def overdue() -> Refused:
    """The reply to a request that took longer than the limit."""
    return Refused(
        503,
        "the time limit of this server ran out; send a smaller picture, or try when it is less busy",
        retry_after=30,
    )
