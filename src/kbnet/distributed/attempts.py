"""The state of a job outside its workers, which can die: attempts, outcomes, and the log of the run."""

import os
from pathlib import Path
from typing import Any

from kbnet.errors import OutputError
from kbnet.inference.ledger import Ledger

NO_CHANGE = -1.0
"""Value for an unknown change, as a column of numbers can't contain None."""


class Attempts:
    """Records which rows were started and their outcomes. A job has one, in its own process on the driver's machine.

    Ray reassigns the rows of a dead worker without limit. Attempts are counted before each try, so that an image that
    kills its workers eventually fails; and outcomes are kept until the driver has received them, so that finished rows
    of a dead worker's block aren't restored again. Promises of results are kept even without a ledger, because a worker
    can die after its result has replaced the input: the next one must not restore the result.

    Args:
        attempts: maximum attempts per row.
        log: path of the run's ledger; None for no ledger.
        settings: settings that affect results, except for the network's identity, which the workers provide.
    """

    def __init__(self, attempts: int, log: str | None = None, settings: dict[str, Any] | None = None) -> None:
        self._attempts, self._log, self._settings = attempts, log, settings or {}
        self._begun: dict[int, int] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}
        self._promised: dict[str, tuple[str, str]] = {}
        self._ledger: Ledger | None = None
        self._identity: dict[str, Any] | None = None

    def join(self, identity: dict[str, Any]) -> str:
        """Register a worker with the identity of its network. Returns why it can't take part in the run, or ""."""
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
        return f"the workers of this run differ ({told}); use machines of the same kind, or omit --log"

    def promised(self, output: str) -> tuple[str, str] | None:
        """Return the SHA-256 of the input and of the result that were announced for this output, or None.

        Another worker of this run announced them, or an earlier run with the same log.
        """
        return self._promised.get(output) if self._ledger is None else self._ledger.promised(output)

    def promise(self, output: str, input_digest: str, result_digest: str) -> None:
        """Record what is about to be written to this output, in the log if there is one."""
        if self._ledger is None:
            self._promised[output] = (input_digest, result_digest)
        else:
            self._ledger.promise(output, input_digest, result_digest)

    def begin(self, index: int) -> dict[str, Any] | None:
        """Count an attempt at a row. Returns its outcome instead if it has one, or if its attempts are used up."""
        if index in self._outcomes:
            return self._outcomes[index]
        begun = self._begun[index] = self._begun.get(index, 0) + 1
        if begun <= self._attempts:
            return None
        return outcome_of(index, f"its worker died in each of {self._attempts} attempts", attempts=self._attempts)

    def end(self, index: int, outcome: dict[str, Any], source: str = "", target: str = "") -> None:
        """Store the outcome of a row and write it to the log."""
        self._outcomes[index] = outcome
        if self._ledger is not None:
            facts = outcome["seconds"], outcome["width"], outcome["height"]
            self._ledger.tell(source, target, outcome["error"] or None, *facts, skipped=outcome["skipped"])

    def forget(self, index: int) -> None:
        """Discard the state of a row whose outcome has been received, except for its promise.

        Ray may run the row once more even then, and its input may be the result by now.
        """
        self._outcomes.pop(index, None)
        self._begun.pop(index, None)


def outcome_of(index: int, error: str, attempts: int = 0) -> dict[str, Any]:
    """Return the outcome of a row that wasn't restored, in the form that passes through Ray."""
    return {"index": index, "error": error, "width": 0, "height": 0, "notes": "", "worker": os.getpid()} | {
        "attempts": attempts,
        "seconds": 0.0,
        "skipped": False,
        "change": NO_CHANGE,
    }
