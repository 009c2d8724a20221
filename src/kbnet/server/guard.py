"""What stands before every request: who may ask, what is logged and counted, and the headers of every reply."""

import hashlib
import logging
import re
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
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# The page may talk to this server and to nobody else; the browser holds it to that.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


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
        request = _request_id(scope)
        scope.setdefault("state", {})["id"] = request

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers["X-Request-ID"] = request
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _POLICY
                    headers["Cross-Origin-Opener-Policy"] = "same-origin"
            await send(message)

        try:
            self._check(scope)
            # a HEAD is a GET whose body the server below leaves out
            await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, watched)
        except Refused as refused:
            await failure_of(refused)(scope, receive, watched)
        except Exception:
            log.exception("a request failed", extra={"request": request})
            if status:
                raise  # the reply has begun: all that is left is to cut it short
            await failure(500, MISTAKE)(scope, receive, watched)
        finally:
            self._record(scope, request, status, time.monotonic() - start)

    def _record(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        method, path = scope["method"], scope["path"]
        self._metrics.count(method, path, status, seconds)
        polling = path.startswith("/v1/progress/") and status in (200, 404)
        if not polling and (path.startswith("/v1/") or status >= 400):
            # no query, no names, no content; the tokens of results are secrets
            shown = re.sub(r"(?<=/v1/results/).*", "...", path[:80])
            told = {"request": request, "method": method, "path": shown, "status": status, "seconds": round(seconds, 3)}
            level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
            log.log(level, "%s %s %d %.3f s", method, shown, status, seconds, extra=told)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            asked = _host_name(headers.get("host", ""))
            if asked not in self._hosts:
                raise Refused(403, f"this server does not answer to the name {asked[:60]!r}; ask for 127.0.0.1")
        if scope["method"] not in ("GET", "HEAD") and _foreign(headers, scope.get("scheme", "http")):
            raise Refused(403, "a page of another site may not use this server; open the server's own page")
        path = scope["path"]
        if self._key is not None and (path.startswith("/v1") or path.startswith("/metrics")):
            given = headers.get("x-api-key", "")
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                given = token.strip()
            if not secrets.compare_digest(_digest(given), self._key):
                raise Refused(401, "expected the server's API key as 'Authorization: Bearer KEY'; ask its owner for it")


def _request_id(scope: Scope) -> str:
    """That of a proxy in front, if it looks like one; else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _foreign(headers: Headers, scheme: str) -> bool:
    """Whether the page of another origin asks. Programs that are no browsers send neither header."""
    site = headers.get("sec-fetch-site")
    if site in ("same-origin", "none"):
        return False  # a browser says so, and no page can make it lie
    origin = headers.get("origin")
    if origin is None:
        return site is not None
    try:
        parts = urlsplit(origin)
        asked = urlsplit(f"//{headers.get('host', '')}")
        usual = {"http": 80, "https": 443}.get(parts.scheme or scheme)
        return (parts.hostname, parts.port or usual) != (asked.hostname, asked.port or usual)
    except ValueError:
        return True


def _digest(key: str) -> bytes:
    """Of one length, so that comparing takes as long for every key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
