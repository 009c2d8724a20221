"""The ledger of a run that goes on after it was killed: what it is a run of, and what it has finished.

One JSON object a line; `kbnet.lines` writes them. Every line holds the digest of the run's settings, so that what was
done with others does not count, and the settings themselves stand in a line of their own. Before a result appears, its
line {"event": "writing"} says where, and the SHA-256 of the input and of the result. So whenever the process dies, a
result is known to be done by what it holds, and never by its name alone. Lines of other events (done, failed, skipped)
are for people and programs.

A run over many files keeps its ledger where --log says, on one machine or with Ray; a run over the rows of a large
picture keeps it in its state, with a line for each row of tiles.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import OutputError
from kbnet.inference.identity import digest
from kbnet.lines import Entry, Lines

__all__ = ["Ledger", "digest"]

_VERSION = 1


class Ledger:
    """A log file that is read at the start and then appended to, each line whole on disk before the work goes on.

    One process at a time has it, and any number of its threads.

    Args:
        path: the file, made if it is not there. A last line that was cut short, and lines of anything else, are passed
            by.
        settings: what changes a result: `kbnet.inference.identity.identity`, strength and so on, as plain values.
        otherwise: advice for the message where another process has it.

    Raises:
        OutputError: the file cannot be read or written, another process has it, or it is no log.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, otherwise: str = "choose another --log") -> None:
        self.path = path
        self._settings = digest(json.dumps([_VERSION, settings], sort_keys=True, default=str).encode())
        self._lines = Lines(path, doing="writing the log", otherwise=otherwise)
        if self._lines.entries and not any("event" in entry for entry in self._lines.entries):
            self._lines.close()
            raise OutputError(f"{files.printable(path)}: expected a log or a new name, got other JSON; {otherwise}")
        self._own = [entry for entry in self._lines.entries if entry.get("settings_sha256") == self._settings]
        self._promised: dict[str, tuple[str, str]] = {}  # by output: digests of the input and of the result
        for entry in self.entries("writing"):
            promise = (entry.get("input_sha256"), entry.get("output_sha256"))
            if all(isinstance(value, str) for value in (entry.get("output"), *promise)):
                self._promised[entry["output"]] = promise  # type: ignore[assignment]  # strings, as was just asked
        if not self.entries("settings"):
            self.note("settings", version=_VERSION, settings=json.loads(json.dumps(settings, default=str)))

    @property
    def begun_before(self) -> bool:
        """Whether there are lines of other settings, or of none."""
        return len(self._lines.entries) > len(self._own)

    def entries(self, event: str) -> list[Entry]:
        """The lines of an event that were there at the start, of these settings alone."""
        return [entry for entry in self._own if entry.get("event") == event]

    def note(self, event: str, **values: Any) -> None:
        """Add a line of these settings.

        Raises:
            OutputError: the disk is full, or the like.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._lines.append({"time": now, "event": event, "settings_sha256": self._settings} | values)

    def promised(self, output: Path | str) -> tuple[str, str] | None:
        """SHA-256 of the input and of the result that was about to appear there, if any was."""
        return self._promised.get(_key(output))

    def is_done(self, output: Path, input_digest: str) -> bool:
        """Whether the output is there, with the bytes that were made of that input with these settings."""
        files.sweep(output.parent)  # what a killed run left there, perhaps with nothing more to write
        promised = self.promised(output)
        if promised is None or promised[0] != input_digest:
            return False
        try:
            return digest(output) == promised[1]
        except OSError:
            return False

    def promise(self, output: Path | str, input_digest: str, made: bytes | Path | str) -> None:
        """Say that these bytes, or those of this file or of this digest, are about to appear there."""
        key, result = _key(output), made if isinstance(made, str) else digest(made)
        self.note("writing", output=key, input_sha256=input_digest, output_sha256=result)
        self._promised[key] = (input_digest, result)

    def tell(
        self,
        name: str,
        output: Path | str | None,
        error: str | None,
        seconds: float,
        width: int,
        height: int,
        *,
        skipped: bool = False,
    ) -> None:
        """Say what became of one input."""
        self.note(
            "failed" if error else "skipped" if skipped else "done",
            input=name,
            output=None if output is None else files.printable(output),
            error=error,
            seconds=round(seconds, 3),
            width=width,
            height=height,
        )

    def close(self) -> None:
        """Close the file, which others may then have."""
        self._lines.close()


def _key(output: Path | str) -> str:
    if isinstance(output, str):
        return output
    return os.fsencode(output.absolute()).decode("utf-8", "surrogateescape")
