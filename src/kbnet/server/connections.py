"""uvicorn's HTTP protocol with timeouts and a limit on the number of connections.

uvicorn waits indefinitely for a request's header, for the rest of a body that nobody reads, and for a client that
doesn't read its reply. Here, each has a timeout. The timeout for bodies that are read is in `admission`.
"""

import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kbnet.server.limits import Limits

LINGER = 2.0
"""Seconds to keep reading a body after the reply, so that the client gets to read the reply."""


def protocol(limits: Limits, most: int) -> type[H11Protocol]:
    """Return a protocol class for `uvicorn.Config(http=...)`.

    Args:
        limits: resource limits with the timeouts and the minimum rate.
        most: maximum number of connections. Beyond it, the oldest connection that waits for its client is closed.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            self.began = self.head_since = time.monotonic()
            self.linger_since: float | None = None
            self.write_since: float | None = None
            self.unwritten = 0
            super().connection_made(transport)
            alive = [one for one in self.connections if isinstance(one, Protocol) and not one.transport.is_closing()]
            if len(alive) > most:
                waiting = [one for one in alive if one.waits]
                min(waiting, key=lambda one: one.began, default=self).transport.abort()

        @property
        def waits(self) -> bool:
            """Whether the connection only waits for its client."""
            return self.reading_head or self.linger_since is not None

        @property
        def reading_head(self) -> bool:
            return self.conn.their_state is h11.IDLE

        def data_received(self, data: bytes) -> None:
            if self.reading_head and self.head_since == 0:
                self.head_since = time.monotonic()
            super().data_received(data)
            if not self.reading_head:
                self.head_since = 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self.linger_since = time.monotonic()

        def resume_writing(self) -> None:
            self.write_since = None
            super().resume_writing()

        def check(self, now: float) -> None:
            """Close the connection if its client takes too long. Called every second."""
            late = self.reading_head and self.head_since and now - self.head_since > limits.header_seconds
            lingers = self.linger_since is not None and now - self.linger_since > LINGER
            if late or lingers or self._stuck(now):
                self.transport.abort()

        def _stuck(self, now: float) -> bool:
            """Return whether the client reads the reply below the minimum rate."""
            left = self.transport.get_write_buffer_size()
            if not left:
                self.write_since = None
                return False
            if self.write_since is None or left > self.unwritten:
                self.write_since, self.unwritten = now, left
                return False
            if now - self.write_since < limits.body_seconds:
                return False
            taken = self.unwritten - left
            self.write_since, self.unwritten = now, left
            return taken < limits.body_rate * limits.body_seconds

    return Protocol
