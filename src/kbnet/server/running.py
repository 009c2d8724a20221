"""Serving an application: the socket, uvicorn, and an end that is bounded."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from kbnet.errors import InvalidInputError
from kbnet.server.connections import protocol
from kbnet.server.limits import Limits

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 1000
_SPARE_FILES = 64  # descriptors for all but connections
_SAME_REQUEST = 0.25  # seconds; shells and job runners often send one signal twice
_REPLIES = 1.5  # seconds for the last replies to be written, after requests had their time
_HARD = 1.0  # seconds after which the process ends whatever hangs


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        InvalidInputError: the address is not this machine's, or the port is taken or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = found[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidInputError(
            f"expected an address to listen on, got {host} port {port}: {why}; choose another --host or --port"
        ) from None


def url_of(listening: socket.socket) -> str:
    """The address for a browser."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """uvicorn that closes idle connections, ends in a bounded time, and at once at a second signal.

    Args:
        config: as `build_server` makes it.
        limits: whose `shutdown_seconds` requests may take to finish.
        ready: called when requests are answered.
        hard: whether the process is ended where its threads do not end by themselves.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits, ready: Callable[[], None], *, hard: bool) -> None:
        super().__init__(config)
        self._limits = limits
        self._ready = ready
        self._hard = hard
        self._first: tuple[float, int] | None = None  # signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin, and say so."""
        await super().startup(sockets)
        if self.started:
            self._watching = asyncio.create_task(self._watch())
            self._ready()

    async def _watch(self) -> None:
        """Close connections whose clients take too long, until the end."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                connection.check(now)  # type: ignore[union-attr]  # ours, by the config

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first lets requests finish, a second ends the process."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, sig
            self._end_after(self._limits.shutdown_seconds + _REPLIES + _HARD, sig)
            super().handle_exit(sig, frame)
        elif now - self._first[0] > _SAME_REQUEST:
            _end(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, give requests their time, and close."""
        desk = getattr(getattr(self.config.app, "state", None), "desk", None)
        if desk is not None:
            desk.admission.close(self._limits.shutdown_seconds)
        await super().shutdown(sockets)
        self._watching.cancel()
        if self._hard and desk is not None and desk.worker.busy and self._first is not None:
            _end(self._first[1])  # its thread is in a tile that would keep the process alive

    def _end_after(self, seconds: float, sig: int) -> None:
        if self._hard:
            timer = threading.Timer(seconds, _end, [sig])
            timer.daemon = True
            timer.start()


def _end(sig: int) -> None:
    """End the process without waiting for its threads; nothing of the server is on disk."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(128 + sig)


def build_server(app: Any, *, ready: Callable[[], None] = lambda: None, hard: bool = False) -> Server:
    """uvicorn as it is set up here; `should_exit = True` ends its `run` as a signal would."""
    desk = getattr(getattr(app, "state", None), "desk", None)
    limits = Limits() if desk is None else desk.worker.limits
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # ours holds no addresses and no queries
        server_header=False,
        proxy_headers=False,
        ws="none",
        http=protocol(limits, _most_connections()),
        loop="asyncio",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=limits.shutdown_seconds + _REPLIES,  # type: ignore[arg-type]  # seconds for wait_for
        h11_max_incomplete_event_size=32 << 10,
    )
    return Server(config, limits, ready, hard=hard)


def _most_connections() -> int:
    """As many as the process may have files open, less those for other things."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _SPARE_FILES
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(MOST_CONNECTIONS, soft - _SPARE_FILES), 8)


def run(app: Any, listening: socket.socket, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM: then nothing new is accepted, and what was accepted gets its time to finish.

    That time is `Limits.shutdown_seconds`; requests that are not done by then get 503. Three seconds later at the
    latest, or at a second signal, the process ends with 128 + the signal's number, whatever its threads do.

    Args:
        app: from `create_app`.
        listening: from `listen`; closed at the end.
        ready: called when requests are answered.
    """
    with listening:
        build_server(app, ready=ready, hard=True).run(sockets=[listening])
