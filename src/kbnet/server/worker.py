"""The one thread in which pictures are restored, the queue before it, and who is let in.

One thread, since a network already uses every core, and since it bounds what is decoded at a time to one picture, or to
some small ones: those of one size that wait for the same go through the network together, as that is faster. The event
loop goes on meanwhile: decoding, the network and encoding all run outside of Python's lock.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from kbnet.errors import ImageError, KBNetError
from kbnet.imaging import Photo, Pixels, plan_output, probe, read_photo, write_photo
from kbnet.imaging.planning import format_of
from kbnet.server.limits import Limits
from kbnet.server.replies import Refused

log = logging.getLogger(__name__)

_USUAL_SECONDS = 1.0  # a request's work, before there was one to measure

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
                first = self._current = self._queue.popleft()
            group = [p for p in (first, *self._companions(first)) if p.future.set_running_or_notify_cancel()]
            self._serve(group)
            del first, group  # or their pictures would stay until the next one comes

    def _companions(self, first: Pending) -> list[Pending]:
        """Those that wait and can be restored in one pass with the first, taken out of the queue."""
        if not self._queue or first.kind is None:
            return []
        with self._changed:
            found = [pending for pending in self._queue if pending.kind == first.kind][: TOGETHER - 1]
            for pending in found:
                self._queue.remove(pending)
        return found

    def _serve(self, group: list[Pending]) -> None:
        """Restore and tell each its own; those whose pixels turn out alike in one pass."""
        start = time.monotonic()
        alike: dict[tuple[object, ...], list[Opened]] = defaultdict(list)
        for pending in group:
            try:
                opened = self._open(pending)
            except BaseException as error:
                _fail(pending, error)
            else:
                alike[opened.photo.pixels.shape, opened.photo.pixels.dtype.str].append(opened)
        for several in alike.values():
            try:
                results = self._restore([opened.pending for opened in several], [o.photo.pixels for o in several])
            except BaseException as error:
                for opened in several:
                    _fail(opened.pending, error)
                continue
            for opened, pixels in zip(several, results, strict=True):
                try:
                    restored = opened.encode(pixels, time.monotonic() - start)
                except BaseException as error:
                    _fail(opened.pending, error)
                else:
                    opened.pending.future.set_result(restored)
        self._seconds += 0.2 * ((time.monotonic() - start) / max(len(group), 1) - self._seconds)

    def _open(self, pending: Pending) -> "Opened":
        pending.check()
        photo = read_photo(pending.what.data, max_pixels=self.limits.pixels)
        format = format_of(pending.what.format or photo.format)
        _, lost = plan_output(photo, format)  # refuses before the work what would be refused after it
        return Opened(pending, photo, format, lost)

    def _restore(self, group: list[Pending], pixels: list[Pixels]) -> list[Any]:
        what = group[0].what
        if what.strength == 0:
            return pixels
        restore = self._provide(what.task)
        if len(group) == 1:
            return [restore(pixels[0], strength=what.strength, progress=group[0].advance)]
        for pending in group:
            pending.advance(0, 1)
        return restore.together(pixels, strength=what.strength)


@dataclass(frozen=True)
class Opened:
    """A request whose picture is decoded: `lost` says what its result cannot keep."""

    pending: Pending
    photo: Photo
    format: str
    lost: Sequence[str]

    def encode(self, pixels: Pixels, seconds: float) -> Restored:
        """The answer."""
        data = write_photo(replace(self.photo, pixels=pixels), None, format=self.format)
        assert data is not None
        notes = (*self.photo.notes, *self.lost)
        return Restored(data, self.format, self.photo.width, self.photo.height, notes, seconds)


def _fail(pending: Pending, error: BaseException) -> None:
    if not isinstance(error, KBNetError | MemoryError):
        log.error("restoring failed", exc_info=error)
    pending.future.set_exception(error)
