"""Results on disk: rows appended one by one while an evaluation runs, replaced by one file at the end."""

import json
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import InvalidInputError, OutputExistsError
from kbnet.evaluation.rows import Row
from kbnet.lines import Lines

Settings = dict[str, Any]
"""What all rows of a file have in common: benchmark, data, weights and options."""


class Journal:
    """The rows of a running evaluation, in a journal next to its results file.

    The journal RESULTS.rows holds a JSON line for the settings and one for each row. Incomplete lines are ignored, so
    the process can be killed at any moment. Resuming retries rows with an error.

    Args:
        path: path of the results file.
        settings: settings of this evaluation.
        resume: continue from the rows of an earlier evaluation, finished or not.
        overwrite: discard an earlier evaluation and start over.

    Raises:
        OutputExistsError: there is an earlier evaluation, and neither `resume` nor `overwrite` is set.
        InvalidInputError: the earlier evaluation has other settings or can't be read.
    """

    def __init__(self, path: Path, settings: Settings, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path, self._may_replace = path, resume or overwrite
        self.rows: dict[str, Row] = {}
        self._place = path.with_name(f"{path.name}.rows")
        if not path.parent.is_dir():
            raise InvalidInputError(f"{path}: its folder does not exist; create it first")
        if not resume and not overwrite:
            if self._place.exists():
                raise OutputExistsError(
                    f"{self._place}: an evaluation was interrupted here; continue with --resume, or start over with "
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
        """Append a row to the journal on disk."""
        self._lines.append(row.as_json())
        self.rows[row.name] = row

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results file, and remove the journal.

        Raises:
            OutputExistsError: a file has appeared under that name, and neither `resume` nor `overwrite` was given. The
                journal is kept.
        """
        files.write((json.dumps(results, indent=1) + "\n").encode(), self.path, overwrite=self._may_replace)
        self._lines.remove()

    def close(self) -> None:
        """Release the journal to other processes, as deleting this object does."""
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
            if not anew and self.path.exists():  # rows of the evaluation that this one resumed
                results = json.loads(self.path.read_text(encoding="utf-8"))
                before.append(results["settings"])
                found = [*results["images"], *found]
            done = [Row.from_json(row) for row in found]
            differing = {key for one in before for key in one.keys() | now.keys() if one.get(key) != now.get(key)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{self.path}: can't resume, not results of kbnet evaluate ({type(error).__name__}: {error}); "
                "start over with --overwrite"
            ) from None
        if differing:
            was = {key: value for one in before for key, value in one.items()}
            told = ", ".join(f"{key} was {was.get(key)!r}, now {now.get(key)!r}" for key in sorted(differing))
            raise InvalidInputError(f"{self.path} contains results with other settings: {told}; choose another -o")
        return {row.name: row for row in done if row.error is None}
