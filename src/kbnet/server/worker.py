"""The thread that restores images, and its queue.

There is a single thread because a network already uses all cores, and because that bounds memory to one decoded image,
or a few small ones: small images of the same size with the same parameters are restored in one batch, which is faster.
The event loop isn't blocked, as decoding, the network and encoding all release the GIL.
"""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kbnet.errors import KBNetError
from kbnet.imaging import Photo, Pixels, plan_output, write_photo
from kbnet.imaging.planning import format_of
from kbnet.inference.change import mean_change
from kbnet.inference.look import Look
from kbnet.server.admission import ending
from kbnet.server.decoding import open_photo
from kbnet.server.kept import mixed
from kbnet.server.limits import Limits
from kbnet.server.restoration import SMALL_PIXELS, TOGETHER, Pending, Restoration, Restore, Restored

log = logging.getLogger(__name__)

_USUAL_SECONDS = 1.0  # assumed processing time until the first request is measured


class Worker:
    """Restores images one after another in a separate thread.

    Args:
        provide: returns the Restorer for a task or model name; called in the worker's thread.
        limits: resource limits.
    """

    def __init__(self, provide: Callable[[str], Restore], limits: Limits) -> None:
        self.limits = limits
        self.worked: Callable[[float], None] = lambda seconds: None
        """Called with the seconds of each unit of work, including failed and abandoned requests."""
        self._closing = False
        self._provide = provide
        self._queue: deque[Pending] = deque()
        self._current: list[Pending] = []
        self._seconds = _USUAL_SECONDS  # moving average of the processing time of a request
        self._pace: dict[str, float] = {}  # seconds per pixel, by task or model
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="kbnet-worker", daemon=True)  # started when needed

    @property
    def busy(self) -> bool:
        """Whether its thread is alive, working or waiting."""
        return self._thread.is_alive()

    def wait(self, admitted: int) -> float:
        """Estimate the seconds until a place is free when `admitted` places are taken."""
        return self._seconds * max(admitted, 1) / 2

    def submit(self, what: Restoration, deadline: float) -> Pending:
        """Queue an admitted restoration. `deadline` is a time of the clock time.monotonic."""
        pending = Pending(what, deadline)
        with self._changed:
            if self._closing:
                raise ending()
            self._queue.append(pending)
            self._changed.notify()
            if self._thread.ident is None:
                self._thread.start()
        return pending

    def abandon(self, pending: Pending) -> None:
        """Cancel a restoration that nobody waits for: remove it from the queue, or stop it after the current tile."""
        with self._changed:
            pending.abandoned = True
            if pending in self._queue:
                self._queue.remove(pending)

    def ahead(self, pending: Pending) -> int:
        """Return how many restorations are ahead of this one; 0 if it is in progress."""
        with self._changed:
            return self._queue.index(pending) + bool(self._current) if pending in self._queue else 0

    def depth(self) -> int:
        """Return the number of waiting restorations."""
        return len(self._queue)

    def left(self, pending: Pending) -> tuple[float, float | None]:
        """Return its processing time so far and the estimated remaining time in seconds; None if unknown."""
        if pending.began is None:
            return 0.0, None
        spent = time.monotonic() - pending.began
        if pending.done:
            return spent, spent * (pending.total - pending.done) / pending.done
        # For a network that was never measured, assume the pace of another task's network.
        pace = self._pace.get(pending.what.task) or max(self._pace.values(), default=0.0)
        if pending.pixels and pace:
            return spent, max(pace * pending.pixels - spent, 0.0)
        return spent, None

    def close(self, seconds: float) -> None:
        """Clear the queue, stop the current work at its next tile, and wait up to `seconds` for the thread to end."""
        with self._changed:
            self._closing = True
            for pending in (*self._queue, *self._current):
                pending.abandoned = True
            for pending in self._queue:
                if pending.future.set_running_or_notify_cancel():
                    pending.future.set_exception(ending())
            self._queue.clear()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._current = []
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                first = self._queue.popleft()
                self._current = [first]
            group = [first, *self._companions(first)]
            with self._changed:
                group = self._current = [p for p in group if p.future.set_running_or_notify_cancel()]
            self._serve(group)
            del first, group  # or their images would stay in memory until the next request

    def _companions(self, first: Pending) -> list[Pending]:
        """Take the restorations out of the queue that can be restored in one batch with the first."""
        if not self._queue or first.kind is None:
            return []
        with self._changed:
            found = [pending for pending in self._queue if pending.kind == first.kind][: TOGETHER - 1]
            for pending in found:
                self._queue.remove(pending)
        return found

    def _serve(self, group: list[Pending]) -> None:
        """Restore a group and set the results. Images with the same shape and dtype are restored in one batch."""
        start = time.monotonic()
        alike: dict[tuple[object, ...], list[Opened]] = defaultdict(list)
        for pending in group:
            pending.began = start
            try:
                opened = self._open(pending)
            except BaseException as error:
                _fail(pending, error)
            else:
                alike[opened.photo.pixels.shape, opened.photo.pixels.dtype.str].append(opened)
        for several in alike.values():
            self._answer(several, start)
        spent = time.monotonic() - start
        self.worked(spent)
        self._seconds += 0.2 * (spent / max(len(group), 1) - self._seconds)

    def _open(self, pending: Pending) -> "Opened":
        pending.check()
        photo = open_photo(pending.what.data, self.limits.pixels)
        format = format_of(pending.what.format or photo.format)
        _, lost = plan_output(photo, format)  # refuse before the work what would be refused after it
        pending.pixels = photo.width * photo.height
        return Opened(pending, photo, format, lost)

    def _answer(self, several: list["Opened"], start: float) -> None:
        several = [opened for opened in several if opened.wanted()]
        if not several:
            return
        try:
            results = self._restore([opened.pending for opened in several], [o.photo.pixels for o in several])
        except BaseException as error:
            if len(several) == 1:
                _fail(several[0].pending, error)
            for opened in several if len(several) > 1 else ():
                self._answer([opened], start)  # one by one, so that a bad image doesn't fail the others
            return
        for opened, pixels in zip(several, results, strict=True):
            seconds = time.monotonic() - start
            try:
                restored = opened.encode(pixels, seconds)
            except BaseException as error:
                _fail(opened.pending, error)
            else:
                opened.pending.future.set_result(restored)

    def _restore(self, group: list[Pending], pixels: list[Pixels]) -> list[Any]:
        what = group[0].what
        if what.look.is_input:
            return pixels
        strength = what.look.strength if what.look.is_plain else 1.0
        restore = self._provide(what.task)
        if len(group) == 1:
            start = time.monotonic()
            result = restore(pixels[0], strength=strength, progress=group[0].advance)
            if group[0].pixels > SMALL_PIXELS:  # in smaller images, fixed costs dominate
                self._pace[what.task] = (time.monotonic() - start) / group[0].pixels
            return self._mixed(pixels, [result], what.look)
        for pending in group:
            pending.done, pending.total = 0, 1
        return self._mixed(pixels, restore.together(pixels, strength=strength), what.look)

    def _mixed(self, before: list[Pixels], after: list[Any], look: Look) -> list[Any]:
        return after if look.is_plain else [mixed(*pair, look) for pair in zip(before, after, strict=True)]


@dataclass(frozen=True)
class Opened:
    """A request whose image is decoded. `lost` names what its result can't store."""

    pending: Pending
    photo: Photo
    format: str
    lost: Sequence[str]

    def wanted(self) -> bool:
        """Return whether someone still waits for it. If not, fail it, so that the rest of its group can continue."""
        try:
            self.pending.check()
        except KBNetError as error:
            _fail(self.pending, error)
            return False
        return True

    def encode(self, pixels: Pixels, seconds: float) -> Restored:
        """Encode the restored pixels."""
        data = write_photo(replace(self.photo, pixels=pixels), None, format=self.format)
        assert data is not None
        note = self.pending.what.examine(self.photo.pixels, pixels)
        return Restored(
            data,
            self.format,
            self.photo.width,
            self.photo.height,
            (*([note] if note else []), *self.photo.notes, *self.lost),
            seconds,
            mean_change(self.photo.pixels, pixels),
            pixels if self.pending.what.keep else None,
        )


def _fail(pending: Pending, error: BaseException) -> None:
    if not isinstance(error, KBNetError | MemoryError):
        log.error("restoring failed", exc_info=error, extra={"request": pending.what.request})
    pending.future.set_exception(error)
