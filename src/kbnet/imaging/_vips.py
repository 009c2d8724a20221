"""libvips, loaded once, kept quiet, and its errors cut down to one line."""

import atexit
import logging
from typing import Any

import pyvips

__all__ = ["FAILURES", "pyvips", "reason"]

FAILURES = (pyvips.Error, UnicodeDecodeError)
"""What a failing call raises: pyvips decodes error texts strictly, and those may quote bytes of a damaged file."""

_NOISE = ("bad seek", "load error", "read error", "unable to call", "unable to open source")


def reason(error: Exception) -> str:
    """libvips' own words on what went wrong: one printable line of at most 120 characters, or nothing.

    The error buffer of libvips is shared and keeps lines of earlier calls that recovered, so only the last line that
    says something is taken, and the rest is cleared.
    """
    pyvips.vips_lib.vips_error_clear()
    if isinstance(error, UnicodeDecodeError):
        detail = error.object.decode("utf-8", "replace")
    else:
        detail = str(getattr(error, "detail", ""))
    lines = [line.strip() for line in detail.splitlines()]
    telling = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    if not telling:
        return ""
    return "".join(c if c.isprintable() else " " for c in telling[-1])[:120].strip()


def _log(domain: Any, level: int, message: Any, data: Any) -> None:
    text = pyvips.ffi.string(message).decode("utf-8", "replace")
    pyvips.logger.log(pyvips.GLogLevelFlags.LEVEL_TO_LOGGER.get(level, logging.WARNING), "libvips: %s", text)


def _take_over_log() -> None:
    """Receive libvips' log in place of pyvips, whose handler prints a traceback where a file's bytes are not UTF-8."""
    handler = pyvips.ffi.callback("GLogFunc", _log)
    number = pyvips.glib_lib.g_log_set_handler(b"VIPS", 0xFF, handler, pyvips.ffi.NULL)
    # the callback must outlive its registration and be gone before the interpreter is
    atexit.register(lambda kept: pyvips.glib_lib.g_log_remove_handler(b"VIPS", number), handler)


# Each photo is decoded and encoded once, so a cache of operations would only keep whole pictures alive.
pyvips.cache_set_max(0)

# libvips logs a line per damaged block; what matters of it comes back as an error or a note. A program that wants the
# rest sets the level of the "pyvips" logger itself, before or after.
if pyvips.logger.level == logging.NOTSET:
    pyvips.logger.setLevel(logging.CRITICAL)
_take_over_log()
