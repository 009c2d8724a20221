"""Libraries that write an exported file by its path: what they say of a full disk, in words about the output."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kbnet import files
from kbnet.errors import OutputError


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Around a library's call that writes `path`, a file in a workspace beside where it is to be.

    Raises:
        OutputError: the call failed.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        target = path.parent.parent / path.name
        if isinstance(error, OSError) and error.errno:
            raise files.failed(target, OSError(error.errno, os.strerror(error.errno))) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"{files.printable(target)}: cannot be written: {files.printable(reason)[:160]}; is there space left?"
        ) from error
