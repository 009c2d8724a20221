"""JSON Lines files with a single writer: each line is on disk before work continues.

If the process is killed at any moment, all lines but the last are complete. Readers skip a truncated last line and
lines that aren't JSON objects: files of state are never trusted.
"""

import json
import os
import stat
import threading
import weakref
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import KBNetError, OutputError

Entry = dict[str, Any]

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_lines(data: bytes) -> list[Entry]:
    """Return the objects in lines of JSON. Truncated or damaged lines and other values are skipped."""
    entries = []
    for line in data.split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


class Lines:
    """An open JSON Lines file, locked by this process until `close`.

    Args:
        path: the file. It is created if missing, along with its folders.
        doing, otherwise, error: as for `kbnet.files.lock`, in case another process holds the file.

    Attributes:
        entries: the objects that the file held when it was opened.

    Raises:
        `error`: another process holds the file.
        OutputError: the file can't be read or written, or doesn't contain JSON lines.
    """

    def __init__(
        self,
        path: Path,
        *,
        doing: str = "writing",
        otherwise: str = "choose another name",
        error: type[KBNetError] = OutputError,
    ) -> None:
        self.path = path
        self._lock = threading.Lock()
        files.make_folder(path.parent)
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except (OSError, ValueError) as problem:
            raise files.failed(path, problem, otherwise) from None
        self._descriptor = descriptor
        self.close = weakref.finalize(self, os.close, descriptor)
        """Close the file and release its lock. Happens automatically when this object is garbage-collected."""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OutputError(f"{files.printable(path)}: expected the name of a file, got a pipe or device")
            files.lock(descriptor, path, doing=doing, otherwise=otherwise, error=error)
            data = self._read()
            self.entries = read_lines(data)
            torn = b"\n" not in data and data.startswith(b"{")  # killed while writing the first line
            if data.strip(b"\0\n ") and not self.entries and not torn:
                raise OutputError(
                    f"{files.printable(path)}: expected a file of JSON lines or a new name, got something else; "
                    f"{otherwise}"
                )
            self._torn = bool(data) and not data.endswith(b"\n")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def append(self, entry: Entry) -> None:
        """Add one line. It is on disk when this returns.

        Raises:
            OutputError: the line can't be written, for example because the disk is full. The file is unchanged.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            end = os.fstat(self._descriptor).st_size
            try:
                rest = memoryview(b"\n" + line if self._torn else line)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                os.fsync(self._descriptor)
            except OSError as problem:
                self._cut(end)
                raise files.failed(self.path, problem) from None
            self._torn = False

    def clear(self) -> None:
        """Remove all lines."""
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as problem:
            raise files.failed(self.path, problem) from None
        self.entries, self._torn = [], False

    def remove(self) -> None:
        """Delete the file and close it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _read(self) -> bytes:
        try:
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                file.seek(0)
                return file.read()
        except OSError as problem:
            raise files.failed(self.path, problem) from None

    def _cut(self, end: int) -> None:
        try:
            os.ftruncate(self._descriptor, end)
        except OSError:
            self._torn = True  # start the next entry on a new line
