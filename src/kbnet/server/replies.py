"""Converts errors to HTTP replies: a status, and JSON with one line of text."""

import math
from collections.abc import Mapping

from starlette.responses import JSONResponse

from kbnet.errors import (
    ImageTooLargeError,
    InvalidInputError,
    KBNetError,
    ModelError,
    UnreadableImageError,
    UnsupportedImageError,
)
from kbnet.imaging.photo import printable

MISTAKE = "internal error in kbnet; see the server's log"

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (ImageTooLargeError, 413),
    (UnsupportedImageError, 415),
    (UnreadableImageError, 400),
    (InvalidInputError, 400),
    (ModelError, 500),
    (MemoryError, 503),
)


class Refused(KBNetError):
    """A refused request: its HTTP status, and in how many seconds to retry, if that can help."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the reply {"error": message}, with the message as one printable line."""
    return JSONResponse({"error": printable(message)}, status, headers=dict(headers or {}))


def failure_of(error: Exception) -> JSONResponse:
    """Return the reply to an error. Unexpected errors are reported as internal errors, without details."""
    if isinstance(error, Refused):
        headers = {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return failure(error.status, str(error), headers)
    if isinstance(error, MemoryError):
        return failure(503, "not enough memory for this image; send a smaller one", {"Retry-After": "10"})
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return failure(status, str(error))
    return failure(500, MISTAKE)
