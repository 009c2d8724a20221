"""The one thread in which pictures are restored, the queue before it, and who is let in.

One thread, since a network already uses every core, and since it bounds what is decoded at a time to one picture. The
event loop goes on meanwhile: decoding, the network and encoding all run outside of Python's lock.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kbnet.errors import KBNetError
from kbnet.imaging import Pixels, plan_output, read_photo, write_photo
from kbnet.imaging.planning import format_of
from kbnet.server.limits import Limits
from kbnet.server.replies import Refused

log = logging.getLogger(__name__)

_USUAL_SECONDS = 1.0  # a request's work, before there was one to measure


class Restore(Protocol):
    """What is done to the pixels: a `Restorer`, or anything else that is called like one."""

    def __call__(self, image: Pixels, /, *, strength: float, progress: Callable[[int, int], None]) -> Any: ...


@dataclass(frozen=True)
class Restoration:
    """One picture to restore: the bytes of its file, the task or model, and how."""

    data: bytes = field(repr=False)
    task: str
    strength: float = 1.0
    format: str | None = None


@dataclass(frozen=True)
class Restored:
    """The encoded result, its format, size, what was changed on the way, and the seconds of work."""

    data: bytes = field(repr=False)
    format: str
    width: int
    height: int
    notes: tuple[str, ...]
    seconds: float


class Pending:
    """A restoration on its way. `future` ends with a Restored or an exception."""

    def __init__(self, what: Restoration, deadline: float) -> None:
        self.what = what
        self.deadline = deadline
        self.future: Future[Restored] = Future()
        self.done = self.total = 0  # tiles; total 0 until the network begins
        self.abandoned = False

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


class Place:
    """A place among the requests that were let in, and the bytes that it holds. Used by the event loop alone."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._bytes = 0

    def expect(self, announced: int) -> None:
        """Refuse a body before it is read, by the length that its sender announced."""
        if announced > self._worker.limits.bytes:
            raise self._too_many(announced)

    def book(self, count: int) -> None:
        """Count bytes that arrived; raises Refused if they are too many."""
        self._bytes += count
        self._worker.bytes += count
        if self._bytes > self._worker.limits.bytes:
            raise self._too_many(self._bytes)
        if self._worker.bytes > self._worker.limits.all_bytes:
            raise self._worker.busy()

    def _too_many(self, count: int) -> Refused:
        limit = self._worker.limits.bytes
        return Refused(413, f"expected at most {limit} bytes, got {count} or more; send a smaller file")

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.bytes -= self._bytes
        self._worker.admitted -= 1


class Worker:
    """Restores one picture after another in a thread of its own.

    Args:
        provide: the Restorer for a task's or model's name; called in the worker's thread.
        limits: see `Limits`.
    """

    def __init__(self, provide: Callable[[str], Restore], limits: Limits) -> None:
        self.limits = limits
        self.admitted = 0  # requests being read, waiting or at work: the event loop's count
        self.bytes = 0  # of their bodies
        self.closing = False
        self._provide = provide
        self._queue: deque[Pending] = deque()
        self._current: Pending | None = None
        self._seconds = _USUAL_SECONDS  # of a request's work, averaged
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kbnet-worker", daemon=True)  # started when needed

    def admit(self) -> Place:
        """A place for one more request, to be left by `with`.

        Raises:
            Refused: 429 if all are taken, 503 if the server is about to end.
        """
        if self.closing:
            raise Refused(503, "the server is shutting down; try again in a while", retry_after=10)
        if self.admitted > self.limits.waiting:
            raise self.busy()
        self.admitted += 1
        return Place(self)

    def busy(self) -> Refused:
        """The reply while all places are taken."""
        wait = self._seconds * max(self.admitted, 1) / 2
        return Refused(429, "too many pictures are waiting; try again in a while", retry_after=min(wait, 60))

    def submit(self, what: Restoration, deadline: float) -> Pending:
        """Queue a restoration that was admitted; `deadline` is on the clock of time.monotonic."""
        pending = Pending(what, deadline)
        with self._changed:
            self._queue.append(pending)
            self._changed.notify()
            if self._thread.ident is None:
                self._thread.start()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for it any more: forget it, or stop after the tile at hand."""
        with self._changed:
            pending.abandoned = True
            if pending in self._queue:
                self._queue.remove(pending)

    def ahead(self, pending: Pending) -> int:
        """How many restorations will come before this one: 0 when it is at work."""
        with self._changed:
            return self._queue.index(pending) + (self._current is not None) if pending in self._queue else 0

    def depth(self) -> int:
        """How many restorations wait."""
        return len(self._queue)

    def close(self) -> None:
        """Finish what was submitted, then end the thread. Nothing is admitted from now on."""
        self.closing = True
        with self._changed:
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._current = None
                self._changed.wait_for(lambda: self._queue or self.closing)
                if not self._queue:
                    return
                pending = self._current = self._queue.popleft()
            if not pending.future.set_running_or_notify_cancel():
                continue
            try:
                restored = self._restore(pending)
            except BaseException as error:
                if not isinstance(error, KBNetError | MemoryError):
                    log.exception("restoring failed")
                pending.future.set_exception(error)
            else:
                self._seconds += 0.2 * (restored.seconds - self._seconds)
                pending.future.set_result(restored)
            del pending  # or its picture would stay until the next one comes

    def _restore(self, pending: Pending) -> Restored:
        pending.check()
        start = time.monotonic()
        what = pending.what
        photo = read_photo(what.data, max_pixels=self.limits.pixels)
        format = format_of(what.format or photo.format)
        _, lost = plan_output(photo, format)  # refuses before the work what would be refused after it
        pixels = photo.pixels
        if what.strength > 0:
            restore = self._provide(what.task)
            pixels = restore(pixels, strength=what.strength, progress=pending.advance)
        data = write_photo(replace(photo, pixels=pixels), None, format=format)
        assert data is not None
        return Restored(
            data, format, photo.width, photo.height, (*photo.notes, *lost), seconds=time.monotonic() - start
        )
