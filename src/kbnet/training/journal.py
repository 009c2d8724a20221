"""The run's curves as lines of JSON, one object a line: {"step": 20, "loss": ..., ...} and {"step": 1000, "psnr": ...}.

A run that was killed has written lines past its last checkpoint. They are cut off when it goes on, so a curve holds
every step once, and is the curve of a run that was never interrupted.
"""

import json
from pathlib import Path
from typing import Any

NAME = "metrics.jsonl"


class Journal:
    """Appends to the log of a run folder; what is written is on disk at once.

    Args:
        folder: of the run, made if needed.
        step: up to which lines are kept.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / NAME
        kept = [json.dumps(entry) for entry in read(folder) if entry["step"] <= step]
        temporary = folder / f".{NAME}.part"
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        temporary.replace(self.path)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run folder's log, without a line that was cut short; empty if there is no log."""
    path = folder / NAME
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return entries
