"""A worker: loads the network once, then restores its images one at a time."""

import errno
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.distributed import storage
from kbnet.distributed.attempts import NO_CHANGE, outcome_of
from kbnet.errors import KBNetError, OutputError, OutputExistsError
from kbnet.imaging.extras import check_extras
from kbnet.imaging.photo import format_named
from kbnet.inference.developing import restore_raw
from kbnet.inference.guard import outbreak_note
from kbnet.inference.identity import digest, identity
from kbnet.inference.jobs import Job, Result, run_jobs
from kbnet.inference.look import Look
from kbnet.inference.marking import MARKED_NOTE, holds_mark
from kbnet.inference.steps import times_of

_FIRST_PAUSE = 0.5  # seconds before the first retry; doubled for each further one
# Errors of storage that may be temporary.
_MAY_PASS = (errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTDOWN)


class Worker:
    """A Restorer in a separate process. Called with a row as a dictionary, it returns its outcome as a dictionary.

    Args:
        model: a model in the package, a task, or the name of a file in `weights`.
        weights: Ray object reference to the files of a model that only the driver has, by name; None otherwise.
        options: keyword arguments of `Restorer.from_pretrained`.
        look: keyword arguments of a Restorer's call: strength, color_strength, detail.
        output: keyword arguments of `run_jobs`: format, quality, max_pixels, keep_time, same_quality; and drop_extras
            and mark, both true or false.
        threads: number of threads.
        attempts: attempts per image if reading or writing fails.
        known: handle of the job's `Attempts` actor.
        has_log: whether the job has a log.
    """

    def __init__(
        self,
        model: str,
        weights: Any,
        options: dict[str, Any],
        look: dict[str, Any],
        output: dict[str, Any],
        threads: int,
        attempts: int,
        known: Any,
        has_log: bool = False,
    ) -> None:
        from kbnet.engine.threads import limit_threads
        from kbnet.inference import Restorer

        limit_threads(threads)
        if weights is None:
            restorer = Restorer.from_pretrained(model, **options)
        else:
            import ray

            with tempfile.TemporaryDirectory() as folder:
                for name, data in ray.get(weights).items():
                    Path(folder, name).write_bytes(data)
                restorer = Restorer.from_pretrained(Path(folder, model), **options)
        self._restore = partial(restorer, **look)
        self._develop = partial(restore_raw, restorer, look=Look(**look))
        self._examine = partial(outbreak_note, task=restorer.task, guarded=restorer.guard)
        self._output, self._task = output, restorer.task or "restore"
        self._attempts = attempts
        self._known = known
        self._refused = self._ask("join", identity(restorer)) if has_log else ""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore one row. Errors are reported in its outcome, never raised."""
        known: dict[str, Any] | None = self._ask("begin", row["index"])
        if known is not None:
            return known
        outcome = self.restore(row)
        self._ask("end", row["index"], outcome, row["input"], row["output"])
        return outcome

    def restore(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore one row without counting the attempt."""
        start = time.monotonic()
        outcome = outcome_of(row["index"], self._refused)
        made: Result | None = None
        times: files.Times | None = None
        for attempt in range(1, self._attempts + 1):
            if self._refused:
                break
            outcome["attempts"], outcome["error"], place = attempt, "", row["input"]
            try:
                if made is None:
                    times = self._times(row["input"])  # before the result may replace the input
                    data = storage.read(row["input"])
                    input_digest = digest(data)
                    if self._is_done(row, input_digest):
                        outcome["skipped"] = True
                        break
                    if row.get("searched", False) and holds_mark(data):
                        outcome |= {"skipped": True, "notes": MARKED_NOTE}
                        break
                    made = self._restored(data, row)
                    outcome |= {"width": made.width, "height": made.height, "notes": "\n".join(made.notes)}
                    outcome["change"] = NO_CHANGE if made.change is None else made.change
                if made.data is None:
                    text = (made.error or "there is no result").removeprefix("the image data")
                    outcome["error"] = f"{row['input']}: {text.removeprefix(':').strip()}"
                    break
                place = row["output"]
                self._put(row, input_digest, made.data, times)
                break
            except OSError as error:
                # an error of the storage, since images are decoded from memory; a retry may succeed
                outcome["error"] = str(error) if isinstance(error, KBNetError) else f"{place}: {_reason(error)}"
                if isinstance(error, OutputError) and error.errno not in _MAY_PASS:
                    break
                if attempt < self._attempts:
                    time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            except KBNetError as error:
                outcome["error"] = str(error)
                break
            except Exception as error:
                outcome["error"] = f"{row['input']}: {type(error).__name__}: {error}"
                break
        outcome["seconds"] = time.monotonic() - start
        return outcome

    def _ask(self, name: str, *values: Any) -> Any:
        import ray

        return ray.get(getattr(self._known, name).remote(*values))

    def _is_done(self, row: dict[str, Any], input_digest: str) -> bool:
        """Return whether an earlier run with this log wrote the result, or a worker of this run that died."""
        promised = self._ask("promised", row["output"])
        if promised is None:
            return False
        if promised[1] == input_digest and storage.same(row["input"], row["output"]):
            return True  # the result has replaced the input
        try:
            return bool(promised[0] == input_digest and digest(storage.read(row["output"])) == promised[1])
        except (KBNetError, OSError):
            return False

    def _restored(self, data: bytes, row: dict[str, Any]) -> Result:
        options, target = dict(self._output), row["output"].partition("?")[0]
        drop_extras, mark = options.pop("drop_extras", False), options.pop("mark", False)
        options["mark"] = self._task if mark else ""
        if options["format"] is None and format_named(target):
            options["format"] = Path(target).suffix
        (result,) = run_jobs([Job(data, None)], self._restore, examine=self._examine, develop=self._develop, **options)
        check_extras(result.extras, row["input"], row["output"], drop_extras=drop_extras)
        return result

    def _times(self, place: str) -> files.Times | None:
        local = storage.local_path(place) if self._output.get("keep_time") else None
        return None if local is None else times_of(local)

    def _put(self, row: dict[str, Any], input_digest: str, data: bytes, times: files.Times | None) -> None:
        self._ask("promise", row["output"], input_digest, digest(data))
        overwrite, like = row.get("overwrite", False), storage.local_path(row["input"])
        try:
            storage.write(row["output"], data, overwrite=overwrite, times=times, like=like)
        except OutputExistsError:
            if storage.read(row["output"]) != data:  # else a worker that died right after writing has written it
                raise


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
