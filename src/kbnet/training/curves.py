"""A run's curves as JSON lines: {"step": 20, "loss": ..., ...} and {"step": 1000, "psnr": ...}.

A killed run may have written lines past its last checkpoint. Resuming removes them, so a curve holds every step once,
as if the run was never interrupted.
"""

import json
import logging
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import OutputError
from kbnet.lines import Entry, Lines, read_lines

_log = logging.getLogger(__name__)

NAME = "metrics.jsonl"


class Curves:
    """Appends to the curves of a run. Every line is on disk as soon as it is written.

    A failed write doesn't stop the training: it logs one warning, and the line is skipped.

    Args:
        folder: the run's folder; created if needed.
        step: keep existing lines up to this step.

    Raises:
        OutputError: the file can't be opened for writing.
    """

    def __init__(self, folder: Path, step: int) -> None:
        files.make_folder(folder)
        self.path = folder / NAME
        self._told = False
        kept = [json.dumps(entry) for entry in read(folder) if entry["step"] <= step]
        files.write("".join(line + "\n" for line in kept).encode(), self.path, overwrite=True)
        self._lines = Lines(self.path, doing="training into", otherwise="use another --run folder")

    def write(self, entry: Entry) -> None:
        """Append one line."""
        try:
            self._lines.append(entry)
        except OutputError as error:
            if not self._told:
                _log.warning("the curves are incomplete: %s", error)
            self._told = True

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """Read the entries of a run's curves, skipping damaged lines. Returns an empty list if there are none."""
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.failed(path, error) from None
    return [entry for entry in read_lines(data) if type(entry.get("step")) is int]
