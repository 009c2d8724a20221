"""What stands before every request: who may ask, what is logged and counted, and the headers of every reply."""

import hashlib
import logging
import secrets
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kbnet.server.metrics import Metrics
from kbnet.server.replies import MISTAKE, Refused, failure, failure_of

log = logging.getLogger(__name__)

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/healthz", "/openapi.json")
"""Answered without a key: they tell nothing that is not in this repository. The page's own files are open too."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
# The page may talk to this server and to nobody else; the browser holds it, and every library in it, to that.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class Guard:
    """ASGI middleware: host names, other sites, the key; then one log line and the counts of each request.

    Args:
        app: what it stands before.
        metrics: where requests are counted.
        hosts: the names by which the server may be asked, None for any. With those of the loopback alone, a web page
            cannot reach the server through a name that its owner points there (DNS rebinding).
        api_key: that /v1 and /metrics ask for, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; None for no key.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, hosts: Collection[str] | None = None, api_key: str | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = None if hosts is None else frozenset(hosts)
        self._key = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _POLICY
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, watched)
        except Refused as refused:
            await failure_of(refused)(scope, receive, watched)
        except Exception:
            log.exception("a request failed")
            if status:
                raise  # the reply has begun: all that is left is to cut it short
            await failure(500, MISTAKE)(scope, receive, watched)
        finally:
            seconds = time.monotonic() - start
            self._metrics.count(scope["method"], scope["path"], status, seconds)
            if scope["path"].startswith("/v1/") or status >= 400:
                # no query, no names, no content
                log.info("%s %s %d %.3f s", scope["method"], scope["path"][:80], status, seconds)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            asked = _host_name(headers.get("host", ""))
            if asked not in self._hosts:
                raise Refused(403, f"this server does not answer to the name {asked[:60]!r}; ask for 127.0.0.1")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            raise Refused(403, "a page of another site may not use this server; open the server's own page")
        path = scope["path"]
        if self._key is not None and (path.startswith("/v1") or path.startswith("/metrics")):
            given = headers.get("x-api-key", "")
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                given = token.strip()
            if not secrets.compare_digest(_digest(given), self._key):
                raise Refused(401, "expected the server's API key as 'Authorization: Bearer KEY'; ask its owner for it")


def _digest(key: str) -> bytes:
    """Of one length, so that comparing takes as long for every key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
