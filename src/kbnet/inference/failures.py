"""Errors of one image, as one line that names it; and how to tell a lack of memory from other errors."""

import errno
import os
import re
from pathlib import Path

from kbnet.errors import KBNetError, OutputError, OutputExistsError
from kbnet.imaging.photo import printable
from kbnet.inference.naming import Job
from kbnet.inference.places import is_folder

# PyTorch and libvips report a lack of memory in these words where they have no exception of its own. The system's OOM
# killer sends SIGKILL to workers of a data loader, and a full /dev/shm, through which they pass batches, sends SIGBUS.
_MEMORY_MESSAGES = re.compile(
    r"(can't|cannot) allocate memory|not enough memory|out of (shared )?memory|_ALLOC_FAILED"
    r"|DataLoader worker .* killed by signal: (Killed|Bus error)",
    re.IGNORECASE,
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of a library, of a loader worker or of the system means that there isn't enough memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return not isinstance(error, KBNetError | ValueError) and _MEMORY_MESSAGES.search(str(error)) is not None


def explain(error: Exception, job: Job) -> str:
    """Describe an error in one line that starts with the name of the input or the output.

    Raises:
        Exception: the error itself, if it is a bug in the program, which would affect every other file too.
    """
    if isinstance(error, KBNetError):
        text = str(error)
        names = [job.name] if job.output is None else [job.name, printable(job.output)]
        return text if any(text.startswith(f"{name}: ") for name in names) else f"{job.name}: {text}"
    if lacks_memory(error):
        return f"{job.name}: not enough memory; use a smaller --tile or close other programs"
    if isinstance(error, FileNotFoundError) and error.filename in (None, job.input, str(job.input)):
        return f"{job.name}: no such file; check the path"
    if isinstance(error, OSError):
        other = "" if error.filename in (None, job.input, str(job.input)) else f"{printable(error.filename)}: "
        return f"{job.name}: {other}{(error.strerror or str(error)).lower()}"
    raise error


def check_output(path: Path, overwrite: bool) -> None:
    """Detect before the work whether writing the result would fail.

    Raises:
        OutputExistsError: the file exists, and `overwrite` is False.
        OutputError: its parent is not a folder, or is not writable.
    """
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{printable(path)}: the file exists; choose another name or add --overwrite")
    # not made absolute: parents of the working directory may not be accessible
    parent = next(filter(os.path.lexists, path.parents), path.parent)
    if not is_folder(parent):
        raise OutputError(f"{printable(path)}: can't be written: {printable(parent)} is not a folder; choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{printable(path)}: can't be written: no permission to write in {printable(parent)}; choose another"
        )
