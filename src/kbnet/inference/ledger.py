"""The ledger of a resumable run: its settings, and what it has finished.

A file of JSON lines, written by `kbnet.lines`. Every line contains the digest of the run's settings, so that work done
with other settings does not count; the settings themselves have a separate line. Before a result appears, a line
{"event": "writing"} records its path and the SHA-256 of the input and of the result. So even if the process is killed,
a result counts as done because of its contents, never because of its name alone. Lines of other events (done, failed,
skipped) are for people and programs.

A run over many files has its ledger at the --log path, on one machine or with Ray. A run over the rows of a large
image has it in its state folder, with a line for each row of tiles.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import OutputError
from kbnet.inference.identity import digest
from kbnet.lines import Entry, Lines

__all__ = ["Ledger", "digest", "output_settings"]

_VERSION = 1


class Ledger:
    """A log file that is read at the start and then appended to; each line is on disk before the work continues.

    Only one process at a time can open it; its threads share it.

    Args:
        path: the file; created if it does not exist. A truncated last line and unrelated lines are ignored.
        settings: whatever affects a result: `kbnet.inference.identity.identity`, strength and so on, as plain values.
        otherwise: advice for the message if another process has the file open.

    Raises:
        OutputError: the file can't be read or written, another process has it open, or it is not a log.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, otherwise: str = "choose another --log") -> None:
        self.path = path
        self._settings = _settings_digest(settings)
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
        """Whether the file has lines of other settings, or without settings."""
        return len(self._lines.entries) > len(self._own)

    def entries(self, event: str) -> list[Entry]:
        """The lines of an event that the file had at the start, for these settings only."""
        return [entry for entry in self._own if entry.get("event") == event]

    def note(self, event: str, **values: Any) -> None:
        """Add a line for these settings.

        Raises:
            OutputError: it can't be written, for example because the disk is full.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._lines.append({"time": now, "event": event, "settings_sha256": self._settings} | values)

    def promised(self, output: Path | str) -> tuple[str, str] | None:
        """SHA-256 of the input and of the result that was announced for this output, or None."""
        return self._promised.get(_key(output))

    def is_done(self, output: Path, input_digest: str, source: Path | None = None) -> bool:
        """Whether the output exists, and contains the result of that input with these settings.

        `source` is the path of the input, if it has one. Where that is the output itself, its result has replaced it.
        """
        files.sweep(output.parent)  # leftovers of a killed run, which no later write may clean up
        promised = self.promised(output)
        if promised is None:
            return False
        if promised[1] == input_digest and source is not None and files.same(source, output):
            return True
        try:
            return promised[0] == input_digest and digest(output) == promised[1]
        except OSError:
            return False

    def announced(self, output: Path, result_digest: str, settings: Callable[[str], dict[str, Any]]) -> bool:
        """Whether the file had a promise of this result, of any input, with the settings that belong to that input."""
        return any(
            (entry.get("event"), entry.get("output"), entry.get("output_sha256"))
            == ("writing", _key(output), result_digest)
            and entry.get("settings_sha256") == _settings_digest(settings(str(entry.get("input_sha256"))))
            for entry in self._lines.entries
        )

    def promise(self, output: Path | str, input_digest: str, made: bytes | Path | str) -> None:
        """Announce a result before it appears: its bytes, a file with them, or their digest."""
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
        """Log the outcome of one input."""
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
        """Close the file, so that other processes can open it."""
        self._lines.close()


def output_settings(*, format: str | None, quality: int | None, same_quality: bool, mark: bool) -> dict[str, Any]:
    """What the bytes of a result depend on besides its pixels, as settings for a ledger of many files.

    Settings that older logs lack are left out where they are the command's defaults, so that those logs stay valid.
    """
    later = ({"same_quality": True} if same_quality else {}) | ({} if mark else {"mark": False})
    return {"format": format, "quality": quality, **later}


def _settings_digest(settings: dict[str, Any]) -> str:
    return digest(json.dumps([_VERSION, settings], sort_keys=True, default=str).encode())


def _key(output: Path | str) -> str:
    if isinstance(output, str):
        return output
    return os.fsencode(output.absolute()).decode("utf-8", "surrogateescape")
