"""The server's log on stderr: text lines for people, or JSON lines for programs."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

from kbnet.imaging.photo import printable

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
_FIELDS = ("request", "method", "path", "status", "seconds")


class Text(logging.Formatter):
    """Formats a record as one line with the time of day and the message, followed by a traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as text."""
        text = f"kbnet: {self.formatTime(record, '%H:%M:%S')} {printable(record.getMessage())}"
        if request := getattr(record, "request", None):
            text += f" [{request}]"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Json(logging.Formatter):
    """Formats a record as one JSON object: time (UTC), level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as JSON."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(told, default=str)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def show_messages(*, format: str, level: str) -> None:
    """Log the server's records of `level` and above, and uvicorn's errors, to stderr in one of `FORMATS`.

    uvicorn's warnings are excluded: it logs one for each client that doesn't speak HTTP, which could fill the disk.
    """
    handler = _Stderr()
    handler.setFormatter(Json() if format == "json" else Text())
    least = getattr(logging, level.upper())
    for name, lowest in (("kbnet.server", logging.DEBUG), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(max(least, lowest))
        logger.propagate = False
