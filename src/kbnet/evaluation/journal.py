"""Results on disk: rows appended one by one while an evaluation runs, and one file in their place when it is done."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from kbnet.errors import InvalidInputError, OutputExistsError
from kbnet.evaluation.rows import Row

Settings = dict[str, Any]
"""What every row of one file has in common: benchmark, data, weights and how they are used."""


def write_atomically(path: Path, data: bytes) -> None:
    """Put a file in its place in one step, whole or not at all; an existing one is replaced."""
    temporary = path.parent / f".kbnet-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Journal:
    """The rows of an evaluation, kept beside its results file while it runs.

    The journal is RESULTS.rows, a line of JSON for the settings and one for each row. A line counts if it is whole, so
    the process may be killed at any moment; what has an error is tried again.

    Args:
        path: of the results file.
        settings: of this evaluation.
        resume: go on from the rows of an earlier one, finished or not.
        overwrite: begin anew although there is one.

    Raises:
        OutputExistsError: there is one, and neither `resume` nor `overwrite`.
        InvalidInputError: what there is to resume has other settings, or cannot be read.
    """

    def __init__(self, path: Path, settings: Settings, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._place = path.with_name(f"{path.name}.rows")
        if not path.parent.is_dir():
            raise InvalidInputError(f"{path}: its folder does not exist; create it first")
        if resume:
            self.rows = self._read(settings)
        elif not overwrite:
            if self._place.exists():
                raise OutputExistsError(
                    f"{self._place}: an evaluation was interrupted here; go on with --resume, or begin anew with "
                    "--overwrite"
                )
            if path.exists():
                raise OutputExistsError(f"{path}: the file exists; choose another name, --resume or --overwrite")
        lines = [json.dumps({"settings": settings}), *(json.dumps(row.as_json()) for row in self.rows.values())]
        write_atomically(self._place, ("\n".join(lines) + "\n").encode())

    def add(self, row: Row) -> None:
        """Keep one more row, at once and for good."""
        self.rows[row.name] = row
        with self._place.open("ab") as file:
            file.write((json.dumps(row.as_json()) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results file, and take the journal away."""
        write_atomically(self.path, (json.dumps(results, indent=1) + "\n").encode())
        self._place.unlink(missing_ok=True)

    def _read(self, settings: Settings) -> dict[str, Row]:
        rows: list[dict[str, Any]]
        try:
            if self._place.exists():
                whole, _, _torn = self._place.read_text(encoding="utf-8").rpartition("\n")
                head, *rows = [json.loads(line) for line in whole.splitlines()]
                before = head["settings"]
            elif self.path.exists():
                results = json.loads(self.path.read_text(encoding="utf-8"))
                before, rows = results["settings"], results["images"]
            else:
                return {}
            done = [Row.from_json(row) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{self.path}: expected results of kbnet evaluate to go on from ({type(error).__name__}: {error}); "
                "begin anew with --overwrite"
            ) from None
        now = json.loads(json.dumps(settings))
        if before != now:
            keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            differing = ", ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in keys)
            raise InvalidInputError(f"{self.path} holds results of other settings: {differing}; begin with another -o")
        return {row.name: row for row in done if row.error is None}
