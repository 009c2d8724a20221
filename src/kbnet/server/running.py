"""Serves an application: the socket, uvicorn, and a shutdown of bounded duration."""

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
_SPARE_FILES = 64  # file descriptors reserved for everything but connections
_SAME_REQUEST = 0.25  # seconds; shells and job runners often send one signal twice
_REPLIES = 1.5  # seconds to write the last replies after the shutdown period
_HARD = 1.0  # further seconds until the process is ended, whatever hangs


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Port 0 selects a free port.

    Raises:
        InvalidInputError: the address doesn't belong to this machine, or the port is in use or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = found[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidInputError(f"can't listen on {host} port {port}: {why}; choose another --host or --port") from None


def url_of(listening: socket.socket) -> str:
    """Return the URL to open in a browser."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server(uvicorn.Server):
    """uvicorn server that closes idle connections, shuts down in bounded time, and stops at once on a second signal.

    Args:
        config: configuration from `build_server`.
        limits: resource limits; requests get `shutdown_seconds` to finish.
        ready: called when the server accepts requests.
        hard: whether to end the process if its threads don't finish.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits, ready: Callable[[], None], *, hard: bool) -> None:
        super().__init__(config)
        self._limits = limits
        self._ready = ready
        self._hard = hard
        self._first: tuple[float, int] | None = None  # time and number of the first signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and call `ready`."""
        await super().startup(sockets)
        if self.started:
            self._watching = asyncio.create_task(self._watch())
            self._ready()

    async def _watch(self) -> None:
        """Periodically close connections whose clients take too long."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                connection.check(now)  # type: ignore[union-attr]  # the protocol class from `build_server`

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal: the first lets requests finish, the second ends the process."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, sig
            self._end_after(self._limits.shutdown_seconds + _REPLIES + _HARD, sig)
            super().handle_exit(sig, frame)
        elif now - self._first[0] > _SAME_REQUEST:
            _end(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting requests, let accepted ones finish within their time, and close."""
        desk = getattr(getattr(self.config.app, "state", None), "desk", None)
        if desk is not None:
            desk.admission.close(self._limits.shutdown_seconds)
        await super().shutdown(sockets)
        self._watching.cancel()
        if self._hard and desk is not None and desk.worker.busy and self._first is not None:
            _end(self._first[1])  # the worker is inside a tile, which would keep the process alive

    def _end_after(self, seconds: float, sig: int) -> None:
        if self._hard:
            timer = threading.Timer(seconds, _end, [sig])
            timer.daemon = True
            timer.start()


def _end(sig: int) -> None:
    """End the process without waiting for its threads. This is safe, as the server has no state on disk."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(128 + sig)


def build_server(app: Any, *, ready: Callable[[], None] = lambda: None, hard: bool = False) -> Server:
    """Return a configured uvicorn server. Setting `should_exit = True` ends its `run` like a signal."""
    desk = getattr(getattr(app, "state", None), "desk", None)
    limits = Limits() if desk is None else desk.worker.limits
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # kbnet's own log has no addresses and no queries
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
    """Return the maximum number of connections: the limit on open files, minus a reserve."""
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
    """Serve until SIGINT or SIGTERM. New requests are then refused, and accepted ones may finish.

    Requests that aren't finished after `Limits.shutdown_seconds` get 503. At most 2.5 seconds later, or at a second
    signal, the process ends with status 128 + signal number, whatever its threads do.

    Args:
        app: application from `create_app`.
        listening: socket from `listen`. It is closed at the end.
        ready: called when the server accepts requests.
    """
    with listening:
        build_server(app, ready=ready, hard=True).run(sockets=[listening])
