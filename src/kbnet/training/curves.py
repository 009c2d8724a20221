"""The run's curves as lines of JSON, one object a line: {"step": 20, "loss": ..., ...} and {"step": 1000, "psnr": ...}.

A run that was killed has written lines past its last checkpoint. They are cut off when it goes on, so a curve holds
every step once, and is the curve of a run that was never interrupted.
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
    """Appends to the curves of a run folder; what is written is on disk at once.

    Curves are no reason to lose a training: what cannot be written is told once, and left out.

    Args:
        folder: of the run, made if needed.
        step: up to which lines are kept.

    Raises:
        OutputError: the file cannot be written at all.
    """

    def __init__(self, folder: Path, step: int) -> None:
        files.make_folder(folder)
        self.path = folder / NAME
        self._told = False
        kept = [json.dumps(entry) for entry in read(folder) if entry["step"] <= step]
        files.write("".join(line + "\n" for line in kept).encode(), self.path, overwrite=True)
        self._lines = Lines(self.path, doing="training into", otherwise="give another --run folder")

    def write(self, entry: Entry) -> None:
        """Append one line."""
        try:
            self._lines.append(entry)
        except OutputError as error:
            if not self._told:
                _log.warning("the curves are not complete: %s", error)
            self._told = True

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run folder's curves, without what is cut or damaged; empty if there are none."""
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise files.failed(path, error) from None
    return [entry for entry in read_lines(data) if type(entry.get("step")) is int]
