"""The log of a run over many files, from which it goes on after it was killed.

One JSON object a line. Before a result appears, its line {"event": "writing"} says where, and the SHA-256 of the input,
of the settings and of the result's bytes. So whatever moment the process dies at, a file is known to be done by what it
holds, and never by its name alone. Lines of other events (done, failed, skipped) are for people and programs.
"""

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from kbnet.errors import OutputError
from kbnet.imaging.photo import printable


def digest(source: Path | bytes) -> str:
    """SHA-256 of a file or of bytes, in hexadecimal."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Ledger:
    """A log file that is read at the start and then appended to, each line whole on disk before the work goes on.

    Args:
        path: the file, made if it is not there. A last line that was cut short, and lines of anything else, are passed
            by.
        settings: what changes a result: model, strength and so on. Results of other settings are not done.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self._settings = digest(json.dumps(settings, sort_keys=True, default=str).encode())
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            self._file.seek(0)
            text = self._file.read()
            if text and not text.endswith(b"\n"):
                self._file.write(b"\n")
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise OutputError(f"{printable(path)}: the log cannot be written: {why}; choose another --log") from None
        self._promised: dict[str, tuple[str, str]] = {}  # by output: digests of the input and of the result
        for line in text.splitlines():
            self._remember(line)

    def is_done(self, output: Path, input_digest: str) -> bool:
        """Whether the output is there, with the bytes that were made of that input with these settings."""
        promised = self._promised.get(_key(output))
        if promised is None or promised[0] != input_digest:
            return False
        try:
            return digest(output) == promised[1]
        except OSError:
            return False

    def promise(self, output: Path, input_digest: str, data: bytes) -> None:
        """Say that these bytes are about to appear there."""
        made = digest(data)
        self._append(
            {
                "event": "writing",
                "output": _key(output),
                "input_sha256": input_digest,
                "settings_sha256": self._settings,
                "output_sha256": made,
            }
        )
        self._promised[_key(output)] = (input_digest, made)

    def tell(
        self,
        name: str,
        output: Path | None,
        error: str | None,
        seconds: float,
        width: int,
        height: int,
        *,
        skipped: bool = False,
    ) -> None:
        """Say what became of one input."""
        self._append(
            {
                "event": "failed" if error else "skipped" if skipped else "done",
                "input": name,
                "output": None if output is None else printable(output),
                "error": error,
                "seconds": round(seconds, 3),
                "width": width,
                "height": height,
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **record}) + "\n"
        with self._lock:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def _remember(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            if record["event"] == "writing" and record["settings_sha256"] == self._settings:
                self._promised[record["output"]] = (record["input_sha256"], record["output_sha256"])
        except (ValueError, KeyError, TypeError):
            return


def _key(path: Path) -> str:
    return os.fsencode(path.absolute()).decode("utf-8", "surrogateescape")
