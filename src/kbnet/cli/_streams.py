"""Standard streams that any terminal, pipe or service manager may have left in any state."""

import codecs
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_ERRORS = "kbnet-plain"
_PLAIN = {"→": "->", "×": "x", "–": "-", "—": "-", "…": "...", "·": "*", "±": "+/-", "≤": "<=", "≥": ">=", "²": "2"}
# The lines of tables, for the encodings that have none.
_PLAIN |= dict.fromkeys("─━═", "-") | dict.fromkeys("│┃║", "|")
_PLAIN |= dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩┳┻╇╞╡╪", "+")


_closed: set[str] = set()


def is_closed(name: str) -> bool:
    """Whether the parent process closed "stdin", "stdout" or "stderr"; what is written there goes nowhere."""
    return name in _closed


def prepare_streams() -> None:
    """Make printing safe: no closed descriptors, and characters of any text in any encoding.

    A standard descriptor that the parent closed is opened on the null device, since otherwise the next file that is
    opened gets its number, and with it what libraries print.
    """
    codecs.register_error(_ERRORS, _plainly)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _closed.add(name)
            _fill(number)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # for good
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def close_quietly() -> None:
    """After the reader of our output has gone: let the interpreter flush what is left into nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _replace(stream, nowhere)
    os.close(nowhere)


def culprit(error: OSError) -> str:
    """The name of the standard stream that an error without a file name comes from, or ""."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            return name  # what could not be written is still there
    # a stream without a buffer keeps nothing; then it was the printing that failed
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "stdout" if places and Path(places[-1]).parent.name in ("click", "_click", "typer", "rich") else ""


def _replace(stream: Any, descriptor: int) -> None:
    try:
        os.dup2(descriptor, stream.fileno())
    except (OSError, ValueError):
        return  # a stream without a descriptor has nothing to flush at the end


def _fill(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        taken = os.open(os.devnull, os.O_RDWR)
        if taken != number:
            os.dup2(taken, number)
            os.close(taken)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_PLAIN.get(c, c.encode("unicode_escape").decode() if ord(c) > 126 else c) for c in text)
    return plain, error.end
