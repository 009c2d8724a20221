"""Who is let in: the bytes of bodies on their way, the places of those that are whole, and the end of the server.

A body holds no place while it arrives, so slow senders keep nobody out; it must keep up a least rate, and where the
bytes of all bodies together run short, the slowest sender gives way. Used by the event loop alone.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from kbnet.server.limits import Limits
from kbnet.server.replies import Refused


class Body:
    """One request's body, and the bytes that it holds until the reply."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._began = time.monotonic()
        self._bytes = 0
        self._fresh = 0  # of the present span
        self._timeout: asyncio.Timeout | None = None
        self._why: Refused | None = None

    @property
    def rate(self) -> float:
        """Bytes a second since it began."""
        return self._bytes / max(time.monotonic() - self._began, 1e-3)

    def expect(self, announced: int) -> None:
        """Refuse a body before it is read, by the length that its sender announced."""
        if announced > self._admission.limits.bytes:
            raise self._too_many(announced)

    def book(self, count: int) -> None:
        """Count bytes that arrived; raises Refused if they are too many."""
        admission = self._admission
        self._bytes += count
        admission.bytes += count
        if self._bytes > admission.limits.bytes:
            raise self._too_many(self._bytes)
        if admission.bytes > admission.limits.all_bytes:
            slowest = min(admission.arriving, key=lambda body: body.rate, default=self)
            if slowest is self:
                raise admission.busy()
            slowest.cut(admission.busy())
        self._fresh += count
        if self._timeout is not None and self._fresh >= admission.limits.body_rate * admission.limits.body_seconds:
            self._fresh = 0
            if self._why is None:
                self._timeout.reschedule(asyncio.get_running_loop().time() + admission.limits.body_seconds)

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """While it arrives: raises Refused as soon as it comes too slowly, or has to give way."""
        admission = self._admission
        if admission.closing:
            raise ending()
        admission.arriving.add(self)
        try:
            async with asyncio.timeout(admission.limits.body_seconds) as self._timeout:
                yield
        except TimeoutError:
            limits = admission.limits
            least = f"{limits.body_rate / 1000:g} kB a second over {limits.body_seconds:g} seconds"
            raise self._why or Refused(408, f"expected a body of at least {least}; send it again") from None
        finally:
            self._timeout = None
            admission.arriving.discard(self)

    def cut(self, why: Refused) -> None:
        """End its arrival with that reply."""
        if self._timeout is not None and self._why is None:
            self._why = why
            self._timeout.reschedule(0)
            self._admission.arriving.discard(self)

    def release(self) -> None:
        """Its bytes are no longer held."""
        self._admission.bytes -= self._bytes
        self._bytes = 0

    def _too_many(self, count: int) -> Refused:
        limit = self._admission.limits.bytes
        return Refused(413, f"expected at most {limit} bytes, got {count} or more; send a smaller file")


class Admission:
    """What is let in, and until when.

    Args:
        limits: see `Limits`.
        wait: seconds after which one who is turned away may find a place, by how many have one.
    """

    def __init__(self, limits: Limits, wait: Callable[[int], float]) -> None:
        self.limits = limits
        self.arriving: set[Body] = set()
        self.admitted = 0  # whole requests that wait or are at work
        self.bytes = 0  # of all bodies
        self.closing = False
        self._wait = wait
        self._over = asyncio.Event()

    @contextmanager
    def body(self) -> Iterator[Body]:
        """A body whose bytes are counted until the end of the block."""
        if self.closing:
            raise ending()
        body = Body(self)
        try:
            yield body
        finally:
            body.release()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one whole request.

        Raises:
            Refused: 429 if all are taken, 503 if the server is about to end.
        """
        if self.closing:
            raise ending()
        if self.admitted > self.limits.waiting:
            raise self.busy()
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    def busy(self) -> Refused:
        """The reply while all places are taken."""
        wait = min(self._wait(self.admitted), 60)
        return Refused(429, "too many pictures are waiting; try again in a while", retry_after=wait)

    def close(self, seconds: float) -> None:
        """Let nobody in, send away those whose bodies still arrive at once, and all others after so many seconds."""
        if self.closing:
            return
        self.closing = True
        for body in list(self.arriving):
            body.cut(ending())
        asyncio.get_running_loop().call_later(seconds, self._over.set)

    async def over(self) -> None:
        """Wait until nobody may wait for a result any longer."""
        await self._over.wait()


def ending() -> Refused:
    """The reply while the server ends."""
    return Refused(503, "the server is shutting down; try again in a while", retry_after=10)
