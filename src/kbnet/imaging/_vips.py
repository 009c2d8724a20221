"""Loads and configures libvips, and reduces its errors to one line."""

import atexit
import logging
from typing import Any

import pyvips

__all__ = ["FAILURES", "pyvips", "reason"]

FAILURES = (pyvips.Error, UnicodeDecodeError)
"""Exceptions of a failing call: pyvips decodes error texts strictly, and they may quote bytes of a damaged file."""

_NOISE = ("bad seek", "load error", "read error", "unable to call", "unable to open source")


def reason(error: Exception) -> str:
    """Return libvips' error as one printable line of at most 120 characters, or "".

    The error buffer of libvips is shared and keeps lines of earlier calls that recovered, so only the last informative
    line is used, and the buffer is cleared.
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
    """Replace pyvips' handler for libvips' log, which prints a traceback if a file's bytes aren't UTF-8."""
    handler = pyvips.ffi.callback("GLogFunc", _log)
    number = pyvips.glib_lib.g_log_set_handler(b"VIPS", 0xFF, handler, pyvips.ffi.NULL)
    # the callback must outlive its registration and be removed before the interpreter exits
    atexit.register(lambda kept: pyvips.glib_lib.g_log_remove_handler(b"VIPS", number), handler)


def field_number(image: Any, field: str, default: int) -> int:
    """Return a whole number from an image's metadata."""
    return int(image.get(field)) if image.get_typeof(field) else default


def field_bytes(image: Any, field: str) -> bytes | None:
    """Return bytes from an image's metadata; None if there are none."""
    return bytes(image.get(field)) or None if image.get_typeof(field) else None


def sample_bits_of(image: Any) -> int:
    """Return the bits of a sample in the file."""
    if image.format == "float":
        return 32  # what half precision is expanded to
    return field_number(image, "bits-per-sample", 16 if image.format == "ushort" else 8)


# Each photo is decoded and encoded once, so a cache of operations would only keep whole images in memory.
pyvips.cache_set_max(0)

# libvips logs a line per damaged block; kbnet reports damage as an error or a note. Programs that want these lines can
# set the level of the "pyvips" logger, before or after importing kbnet.
if pyvips.logger.level == logging.NOTSET:
    pyvips.logger.setLevel(logging.CRITICAL)
_take_over_log()
