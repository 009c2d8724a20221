"""Makes the standard streams usable, whatever state the parent process left them in."""

import codecs
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_ERRORS = "kbnet-plain"
_PLAIN = {"→": "->", "×": "x", "–": "-", "—": "-", "…": "...", "·": "*", "±": "+/-", "≤": "<=", "≥": ">=", "²": "2"}
# Substitutes for table lines in encodings that lack them.
_PLAIN |= dict.fromkeys("─━═", "-") | dict.fromkeys("│┃║", "|")
_PLAIN |= dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩┳┻╇╞╡╪", "+")


_closed: set[str] = set()


def is_closed(name: str) -> bool:
    """Whether the parent process closed "stdin", "stdout" or "stderr"; anything written there is lost."""
    return name in _closed


def prepare_streams() -> None:
    """Make printing safe: no closed descriptors, and any text in any encoding.

    A standard descriptor that the parent closed is opened on the null device. Otherwise, the next file opened would
    get its number, and libraries would print into that file.
    """
    codecs.register_error(_ERRORS, _plainly)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            _closed.add(name)
            _fill(number)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # stays open until exit
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def close_quietly() -> None:
    """After stdout's reader is gone: let the interpreter flush the rest into the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _replace(stream, nowhere)
    os.close(nowhere)


def discard(stream: Any) -> None:
    """Send what a stream has buffered, and everything after it, to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    _replace(stream, nowhere)
    os.close(nowhere)


def culprit(error: OSError) -> str:
    """The standard stream that caused an error without a file name, or ""."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            return name  # unwritten data is still buffered
    # an unbuffered stream keeps nothing; then the print itself failed
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "stdout" if places and Path(places[-1]).parent.name in ("click", "_click", "typer", "rich") else ""


def _replace(stream: Any, descriptor: int) -> None:
    try:
        os.dup2(descriptor, stream.fileno())
    except (OSError, ValueError):
        return  # a stream without a descriptor has nothing to flush at exit


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
