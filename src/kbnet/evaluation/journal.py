"""Results on disk: rows appended one by one while an evaluation runs, and one file in their place when it is done."""

import json
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import InvalidInputError, OutputExistsError
from kbnet.evaluation.rows import Row
from kbnet.lines import Lines

Settings = dict[str, Any]
"""What every row of one file has in common: benchmark, data, weights and how they are used."""


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
        if not resume and not overwrite:
            if self._place.exists():
                raise OutputExistsError(
                    f"{self._place}: an evaluation was interrupted here; go on with --resume, or begin anew with "
                    "--overwrite"
                )
            if path.exists():
                raise OutputExistsError(f"{path}: the file exists; choose another name, --resume or --overwrite")
        self._lines = Lines(self._place, doing="evaluating into", otherwise="choose another -o")
        try:
            if resume:
                self.rows = self._read(settings)
            else:
                self._lines.clear()
            if not self._lines.entries:
                self._lines.append({"settings": settings, "anew": not resume})
        except BaseException:
            if not self._lines.entries:
                self._lines.remove()
            self.close()
            raise

    def add(self, row: Row) -> None:
        """Keep one more row, at once and for good."""
        self._lines.append(row.as_json())
        self.rows[row.name] = row

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results file, and take the journal away."""
        files.write((json.dumps(results, indent=1) + "\n").encode(), self.path, overwrite=True)
        self._lines.remove()

    def close(self) -> None:
        """Let others go on from the rows; the end of this object does, too."""
        self._lines.close()

    def _read(self, settings: Settings) -> dict[str, Row]:
        now = json.loads(json.dumps(settings))
        found: list[dict[str, Any]] = []
        before: list[Settings] = []
        try:
            anew = False
            if self._lines.entries:
                head, *found = self._lines.entries
                anew = head.get("anew", True)
                before.append(head["settings"])
            if not anew and self.path.exists():  # the rows on from which this evaluation was resumed
                results = json.loads(self.path.read_text(encoding="utf-8"))
                before.append(results["settings"])
                found = [*results["images"], *found]
            done = [Row.from_json(row) for row in found]
            differing = {key for one in before for key in one.keys() | now.keys() if one.get(key) != now.get(key)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{self.path}: expected results of kbnet evaluate to go on from ({type(error).__name__}: {error}); "
                "begin anew with --overwrite"
            ) from None
        if differing:
            was = {key: value for one in before for key, value in one.items()}
            told = ", ".join(f"{key} was {was.get(key)!r} and is {now.get(key)!r}" for key in sorted(differing))
            raise InvalidInputError(f"{self.path} holds results of other settings: {told}; begin with another -o")
        return {row.name: row for row in done if row.error is None}
