"""Middleware for all requests: access checks, logging, metrics, and security headers."""

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
# The browser allows the page to contact this server only.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """ASGI middleware that checks the host name, the origin and the API key, and logs and counts each request.

    Args:
        app: the wrapped application.
        metrics: counts requests.
        hosts: allowed host names, None for any. If only loopback names are allowed, a web page can't reach the server
            through DNS rebinding.
        api_key: key that /v1 and /metrics require, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; None for none.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, hosts: Collection[str] | None = None, api_key: str | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = None if hosts is None else frozenset(hosts)
        self._key = None if api_key is None else _digest(api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
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
            # handle HEAD as GET; uvicorn drops the body
            await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, watched)
        except Refused as refused:
            await failure_of(refused)(scope, receive, watched)
        except Exception:
            log.exception("a request failed", extra={"request": request})
            if status:
                raise  # the reply has started, so the connection can only be aborted
            await failure(500, MISTAKE)(scope, receive, watched)
        finally:
            self._record(scope, request, status, time.monotonic() - start)

    def _record(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        method, path = scope["method"], scope["path"]
        self._metrics.count(method, path, status, seconds)
        polling = path.startswith("/v1/progress/") and status in (200, 404)
        if not polling and (path.startswith("/v1/") or status >= 400):
            # log no queries, names or content; result tokens are secrets
            shown = re.sub(r"(?<=/v1/results/).*", "...", path[:80])
            told = {"request": request, "method": method, "path": shown, "status": status, "seconds": round(seconds, 3)}
            level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
            log.log(level, "%s %s %d %.3f s", method, shown, status, seconds, extra=told)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._hosts is not None:
            asked = _host_name(headers.get("host", ""))
            if asked not in self._hosts:
                raise Refused(403, f"the host name {asked[:60]!r} is not allowed; use 127.0.0.1")
        if scope["method"] not in ("GET", "HEAD") and _foreign(headers, scope.get("scheme", "http")):
            raise Refused(403, "requests from another site's page are not allowed; open the server's own page")
        path = scope["path"]
        if self._key is not None and (path.startswith("/v1") or path.startswith("/metrics")):
            given = headers.get("x-api-key", "")
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                given = token.strip()
            if not secrets.compare_digest(_digest(given), self._key):
                raise Refused(401, "expected the server's API key as 'Authorization: Bearer KEY'; ask its owner for it")


def _request_id(scope: Scope) -> str:
    """Return the id set by a proxy if it is valid, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _foreign(headers: Headers, scheme: str) -> bool:
    """Return whether the request comes from a page of another origin. Programs other than browsers send no origin."""
    site = headers.get("sec-fetch-site")
    if site in ("same-origin", "none"):
        return False  # set by the browser; pages can't forge it
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
    """Hash the key to a fixed length, for constant-time comparison."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
