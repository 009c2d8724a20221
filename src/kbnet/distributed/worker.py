"""What a worker does: it loads the network once, then restores the pictures that it is given, one at a time."""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from kbnet.distributed import storage
from kbnet.errors import KBNetError
from kbnet.imaging import is_supported
from kbnet.inference.jobs import Job, run_jobs

_FIRST_PAUSE = 0.5  # seconds before the first retry; twice as long before each further one


class Ledger:
    """Which rows were begun, and what became of them: one for a job, beside its workers, which may die.

    Ray gives a dead worker's rows to another, as often as it takes. Here a row is counted before it is tried, so that a
    picture that kills its workers has an end; and its outcome is kept until the driver has it, so that its neighbours
    are not done again.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._begun: dict[int, int] = {}
        self._outcomes: dict[int, dict[str, Any]] = {}

    def begin(self, index: int) -> dict[str, Any] | None:
        """Count one more attempt at a row; or the outcome that it has already, or that it gets for dying too often."""
        if index in self._outcomes:
            return self._outcomes[index]
        begun = self._begun[index] = self._begun.get(index, 0) + 1
        if begun <= self._attempts:
            return None
        return _outcome(index, f"its worker died at each of {self._attempts} attempts", attempts=self._attempts)

    def end(self, index: int, outcome: dict[str, Any]) -> None:
        """Keep the outcome of a row."""
        self._outcomes[index] = outcome

    def forget(self, index: int) -> None:
        """Drop what is known of a row, whose outcome has arrived."""
        self._outcomes.pop(index, None)
        self._begun.pop(index, None)


def _outcome(index: int, error: str, attempts: int = 0) -> dict[str, Any]:
    return {"index": index, "error": error, "width": 0, "height": 0, "notes": "", "worker": os.getpid()} | {
        "attempts": attempts,
        "seconds": 0.0,
    }


class Worker:
    """A Restorer in a process of its own; called with a row's dictionary, it returns an outcome's.

    Args:
        model: a shipped model or task, or the name of the file among `weights`.
        weights: what `ray.get` takes for the files of a model that only the driver has, by name; None for others.
        options: of `Restorer.from_pretrained`.
        strength: of `Restorer.__call__`.
        output: keyword arguments of `run_jobs`: format, quality, max_pixels.
        threads: of PyTorch.
        attempts: how often a picture is tried where reading or writing fails.
        ledger: handle of the job's `Ledger`.
    """

    def __init__(
        self,
        model: str,
        weights: Any,
        options: dict[str, Any],
        strength: float,
        output: dict[str, Any],
        threads: int,
        attempts: int,
        ledger: Any,
    ) -> None:
        import torch

        from kbnet.inference import Restorer

        torch.set_num_threads(threads)
        if weights is None:
            restorer = Restorer.from_pretrained(model, **options)
        else:
            import ray

            with tempfile.TemporaryDirectory() as folder:
                for name, data in ray.get(weights).items():
                    Path(folder, name).write_bytes(data)
                restorer = Restorer.from_pretrained(Path(folder, model), **options)
        self._restore = partial(restorer, strength=strength)
        self._output = output
        self._attempts = attempts
        self._ledger = ledger

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore one row; what goes wrong with it is told in its outcome and never raised."""
        import ray

        known: dict[str, Any] | None = ray.get(self._ledger.begin.remote(row["index"]))
        if known is not None:
            return known
        outcome = self.restore(row)
        ray.get(self._ledger.end.remote(row["index"], outcome))
        return outcome

    def restore(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same without asking the ledger."""
        start = time.monotonic()
        outcome = _outcome(row["index"], "")
        for attempt in range(1, self._attempts + 1):
            outcome["attempts"] = attempt
            try:
                outcome |= self._run(row["input"], row["output"])
                break
            except KBNetError as error:
                outcome["error"] = str(error)
                break
            except OSError as error:
                # of the storage, since pictures are decoded from memory: the next attempt may be luckier
                outcome["error"] = f"{row['input']}: {error.strerror or error}"
                if attempt < self._attempts:
                    time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            except Exception as error:
                outcome["error"] = f"{row['input']}: {type(error).__name__}: {error}"
                break
        outcome["seconds"] = time.monotonic() - start
        return outcome

    def _run(self, source: str, target: str) -> dict[str, Any]:
        data = storage.read(source)
        options = dict(self._output)
        if options["format"] is None and is_supported(target.partition("?")[0]):
            options["format"] = Path(target.partition("?")[0]).suffix
        (result,) = run_jobs([Job(data, None)], self._restore, **options)
        if result.error is not None or result.data is None:
            text = result.error or "nothing was made of it"
            return {"error": f"{source}: {text.removeprefix('the image data').removeprefix(':').strip()}"}
        storage.write(target, result.data)
        return {"error": "", "width": result.width, "height": result.height, "notes": "\n".join(result.notes)}
