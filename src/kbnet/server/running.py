"""Serving an application: the socket, uvicorn, and an end that finishes what was begun."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from kbnet.errors import InvalidInputError

log = logging.getLogger(__name__)


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


def build_server(app: Any, *, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """uvicorn as it is set up here; `should_exit = True` ends its `run` as a signal would."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,  # ours holds no addresses and no queries
            server_header=False,
            proxy_headers=False,
            ws="none",
            http="h11",
            loop="asyncio",
            timeout_keep_alive=5,
            h11_max_incomplete_event_size=32 << 10,
        )
    )


def run(app: Any, listening: socket.socket, *, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM: then nothing new is accepted, and what was accepted is finished.

    A second signal ends it at once.

    Args:
        app: from `create_app`.
        listening: from `listen`; closed at the end.
        ready: called when requests are answered.
    """
    with listening:
        build_server(app, ready=ready).run(sockets=[listening])
