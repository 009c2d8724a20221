"""The restoration of one image: its parameters, progress and result."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from kbnet.imaging import Pixels
from kbnet.inference.look import Look
from kbnet.server.replies import Refused

SMALL_PIXELS, TOGETHER = 128 * 128, 8
"""Images up to this many pixels are restored in batches of up to this many; larger ones don't get faster in batches
(benchmarks/batches.py)."""


class Restore(Protocol):
    """The restoring function: a `Restorer`, or anything with the same interface."""

    def __call__(self, image: Pixels, /, *, strength: float, progress: Callable[[int, int], None]) -> Any: ...

    def together(self, images: Sequence[Pixels], /, *, strength: float) -> list[Any]:
        """Restore several images of the same size in one batch."""
        ...


@dataclass(frozen=True)
class Restoration:
    """The parameters of a restoration.

    Attributes:
        data: bytes of the image file.
        task: name of the task or model.
        look: how the result looks.
        format: format of the result; None for the input's.
        keep: whether to also return the restored pixels.
        request: id of the request in the log.
        examine: compares the pixels before and after, and returns a note or None.
        size: height and width of the image; None if they aren't known, then it isn't restored in a batch.
    """

    data: bytes = field(repr=False)
    task: str
    look: Look = field(default_factory=Look)
    format: str | None = None
    keep: bool = False
    request: str = "-"
    examine: Callable[[Pixels, Pixels], str | None] = lambda before, after: None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Restored:
    """The result of a restoration.

    Attributes:
        data: bytes of the encoded file.
        format: its format.
        width, height: its size in pixels.
        notes: one line for each thing that was changed or lost.
        seconds: processing time, without waiting.
        change: mean absolute difference between the restored pixels and the input, 0 to 1.
        pixels: the restored pixels if `keep` was set, else None.
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
    """A restoration that is waiting or in progress. `future` resolves to a Restored or an exception."""

    def __init__(self, what: Restoration, deadline: float) -> None:
        self.what = what
        self.deadline = deadline
        self.future: Future[Restored] = Future()
        self.done = self.total = 0  # tiles; total is 0 until the network starts
        self.pixels = 0  # known once the image is decoded
        self.began: float | None = None  # time.monotonic
        self.abandoned = False

    @cached_property
    def kind(self) -> tuple[object, ...] | None:
        """Key that is equal for small images that can be restored in one batch; None for other images."""
        size = self.what.size
        if size is None or size[0] * size[1] > SMALL_PIXELS or self.what.look.is_input:
            return None
        return self.what.task, self.what.look, *size

    def check(self) -> None:
        """Raise Refused if the result is no longer needed or the deadline has passed."""
        if self.abandoned:
            raise Refused(503, "the client has disconnected")
        if time.monotonic() > self.deadline:
            raise overdue()

    def advance(self, done: int, total: int) -> None:
        """Record the progress; passed to the Restorer as its `progress` callback."""
        self.done, self.total = done, total
        if done < total:
            self.check()


def overdue() -> Refused:
    """Return the reply to a request that exceeded the time limit."""
    return Refused(
        503,
        "the server's time limit was exceeded; send a smaller image, or try when the server is less busy",
        retry_after=30,
    )
