"""What is known of a job's rows beside its workers, which may die: attempts, outcomes, and the log of the run."""

import os
from pathlib import Path
from typing import Any

from kbnet.errors import OutputError
from kbnet.inference.ledger import Ledger

NO_CHANGE = -1.0
"""In place of None: a change that is not known, in a column of numbers."""


class Attempts:
    """Which rows were begun, and what became of them: one for a job, in a process of its own on the driver's machine.

    Ray gives a dead worker's rows to another, as often as it takes. Here a row is counted before it is tried, so that a
    picture that kills its workers has an end; and its outcome is kept until the driver has it, so that its neighbours
    are not done again.

    Args:
        attempts: how often a row may be begun.
        log: where the run's ledger lies, or None for none.
        settings: what results depend on, but for the identity of the network, which the workers tell.
    """

    def __init__(self, attempts: int, log: str | None = None, settings: dict[str, Any] | None = None) -> None:
        self._attempts, self._log, self._settings = attempts, log, settings or {}
        self._begun: dict[int, int] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._ledger: Ledger | None = None
        self._identity: dict[str, Any] | None = None

    def join(self, identity: dict[str, Any]) -> str:
        """A worker comes, with the identity of its network; why it cannot take part in a run with a log, or nothing."""
        if self._log is None:
            return ""
        if self._identity is None:
            try:
                self._ledger = Ledger(Path(self._log), self._settings | {"identity": identity})
            except OutputError as error:
                return str(error)
            self._identity = identity
        differing = {key for key in identity.keys() | self._identity if identity.get(key) != self._identity.get(key)}
        if not differing:
            return ""
        told = ", ".join(f"{key} {identity.get(key)} and {self._identity.get(key)}" for key in sorted(differing))
        return f"workers of one run differ ({told}); use machines of one kind, or leave out --log"

    def promised(self, output: str) -> tuple[str, str] | None:
        """SHA-256 of the input and of the result that an earlier run was about to put there."""
        return None if self._ledger is None else self._ledger.promised(output)

    def promise(self, output: str, input_digest: str, result_digest: str) -> None:
        """Say what is about to appear there."""
        if self._ledger is not None:
            self._ledger.promise(output, input_digest, result_digest)

    def begin(self, index: int) -> dict[str, Any] | None:
        """Count one more attempt at a row; or the outcome that it has already, or that it gets for dying too often."""
        if index in self._outcomes:
            return self._outcomes[index]
        begun = self._begun[index] = self._begun.get(index, 0) + 1
        if begun <= self._attempts:
            return None
        return outcome_of(index, f"its worker died at each of {self._attempts} attempts", attempts=self._attempts)

    def end(self, index: int, outcome: dict[str, Any], source: str = "", target: str = "") -> None:
        """Keep the outcome of a row, and write it into the log."""
        self._outcomes[index] = outcome
        if self._ledger is not None:
            facts = outcome["seconds"], outcome["width"], outcome["height"]
            self._ledger.tell(source, target, outcome["error"] or None, *facts, skipped=outcome["skipped"])

    def forget(self, index: int) -> None:
        """Drop what is known of a row, whose outcome has arrived."""
        self._outcomes.pop(index, None)
        self._begun.pop(index, None)


def outcome_of(index: int, error: str, attempts: int = 0) -> dict[str, Any]:
    """An outcome as it goes through Ray, of a row that was not restored."""
    return {"index": index, "error": error, "width": 0, "height": 0, "notes": "", "worker": os.getpid()} | {
        "attempts": attempts,
        "seconds": 0.0,
        "skipped": False,
        "change": NO_CHANGE,
    }
