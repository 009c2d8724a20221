"""Admission control: the bytes of request bodies, the places in the queue, and shutdown.

A body takes no place while it arrives, so slow clients block nobody. It must keep a minimum rate, and if all bodies
together exceed their limit, the slowest client is refused. Not thread-safe: for the event loop only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from kbnet.server.limits import Limits
from kbnet.server.replies import Refused


class Body:
    """A request body, and the bytes that it occupies until the reply."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self._began = time.monotonic()
        self._bytes = 0
        self._fresh = 0  # bytes in the current window
        self._timeout: asyncio.Timeout | None = None
        self._why: Refused | None = None

    @property
    def rate(self) -> float:
        """Mean bytes per second since it began."""
        return self._bytes / max(time.monotonic() - self._began, 1e-3)

    def expect(self, announced: int) -> None:
        """Refuse a body before reading it if its announced length exceeds the limit."""
        if announced > self._admission.limits.bytes:
            raise self._too_many(announced)

    def book(self, count: int) -> None:
        """Count received bytes. Raises Refused if a limit is exceeded."""
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
        """Receive the body in this block. Raises Refused if it arrives too slowly or has to give way to others."""
        admission = self._admission
        if admission.closing:
            raise ending()
        admission.arriving.add(self)
        try:
            async with asyncio.timeout(admission.limits.body_seconds) as self._timeout:
                yield
        except TimeoutError:
            limits = admission.limits
            least = f"{limits.body_rate / 1000:g} kB per second over {limits.body_seconds:g} seconds"
            raise self._why or Refused(408, f"the body arrived too slowly: expected {least}; send it again") from None
        finally:
            self._timeout = None
            admission.arriving.discard(self)

    def cut(self, why: Refused) -> None:
        """Stop receiving it, with this reply."""
        if self._timeout is not None and self._why is None:
            self._why = why
            self._timeout.reschedule(0)
            self._admission.arriving.discard(self)

    def release(self) -> None:
        """Release its bytes."""
        self._admission.bytes -= self._bytes
        self._bytes = 0

    def _too_many(self, count: int) -> Refused:
        limit = self._admission.limits.bytes
        return Refused(413, f"expected at most {limit} bytes, got at least {count}; send a smaller file")


class Admission:
    """Decides which requests are admitted.

    Args:
        limits: resource limits.
        wait: returns after how many seconds a refused client should retry, given the number of admitted requests.
    """

    def __init__(self, limits: Limits, wait: Callable[[int], float]) -> None:
        self.limits = limits
        self.arriving: set[Body] = set()
        self.admitted = 0  # complete requests that wait or are in progress
        self.bytes = 0  # total size of all bodies
        self.closing = False
        self._wait = wait
        self._over = asyncio.Event()

    @contextmanager
    def body(self) -> Iterator[Body]:
        """Create a body whose bytes count until the end of the block."""
        if self.closing:
            raise ending()
        body = Body(self)
        try:
            yield body
        finally:
            body.release()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for one complete request.

        Raises:
            Refused: 429 if all places are taken, 503 if the server is shutting down.
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
        """Return the reply for when all places are taken."""
        wait = min(self._wait(self.admitted), 60)
        return Refused(429, "too many images are waiting; try again later", retry_after=wait)

    def close(self, seconds: float) -> None:
        """Shut down: refuse new requests and incomplete bodies now, and all others after `seconds`."""
        if self.closing:
            return
        self.closing = True
        for body in list(self.arriving):
            body.cut(ending())
        asyncio.get_running_loop().call_later(seconds, self._over.set)

    async def over(self) -> None:
        """Wait until the shutdown period is over."""
        await self._over.wait()


def ending() -> Refused:
    """Return the reply for when the server is shutting down."""
    return Refused(503, "the server is shutting down; try again later", retry_after=10)
