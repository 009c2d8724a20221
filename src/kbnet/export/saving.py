"""Turns the errors of libraries that write exported files, such as a full disk, into OutputError."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kbnet import files
from kbnet.errors import OutputError


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Wrap a library call that writes `path`, a file in a workspace in the output's folder.

    Raises:
        OutputError: the call failed; the message names the output.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        target = path.parent.parent / path.name
        if isinstance(error, OSError) and error.errno:
            raise files.failed(target, OSError(error.errno, os.strerror(error.errno))) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"{files.printable(target)}: can't be written: {files.printable(reason)[:160]}; is there space left?"
        ) from error
