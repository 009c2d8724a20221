"""Runs a job on Ray Data: workers live as long as the job, and outcomes are yielded in the order of completion."""

import csv
import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.distributed import storage
from kbnet.distributed.attempts import Attempts
from kbnet.distributed.planning import Row
from kbnet.distributed.worker import Worker
from kbnet.errors import InvalidInputError, MissingExtraError, OutputError
from kbnet.imaging import DEFAULT_MAX_PIXELS
from kbnet.inference.ledger import output_settings
from kbnet.inference.look import Look
from kbnet.lines import Lines
from kbnet.models import find, resolve

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE = 128 * 2**20  # bytes; it holds only names and outcomes
# Rows per block. Blocks have a fixed cost, but if a worker dies, its whole block goes to one other worker.
_LARGEST_BLOCK = 8
_BLOCKS_PER_WORKER = 16
_MOST_BLOCKS = 20_000  # per job, since Ray keeps state for each
_PATIENCE = 20.0  # seconds within which the processes of a job end after its driver is killed


class _InUseError(OutputError):
    """Another process holds the log."""


@dataclass(frozen=True)
class Settings:
    """How images are restored, and by how many workers.

    Attributes:
        model: a model in the package, a task, or a weights file that the driver can read and sends to the workers.
        options: keyword arguments of `Restorer.from_pretrained`: device, dtype, tile, overlap, context, ensemble.
        strength, color_strength, detail: how results look, as for `Restorer.__call__`.
        format, quality, max_pixels, keep_time, drop_extras, same_quality: as for `kbnet.inference.jobs.run_jobs`. Times
            are kept only for local files.
        mark: whether results are marked in their metadata.
        workers: number of worker processes; None for as many as the available cores allow with `threads` each.
        threads: threads per worker.
        attempts: attempts per image if reading, writing or the worker itself fails.
        log: path of the run's ledger on the driver's machine (`kbnet.inference.ledger`). Results that it lists as
            complete are skipped, so that a killed run can be continued. None for no ledger.
        address: address of a Ray cluster for ray.init ("auto", "10.0.0.1:6379", "ray://..."); None starts a cluster on
            this machine for the job, which listens only on 127.0.0.1.

    Raises:
        InvalidInputError: `workers`, `threads` or `attempts` is below 1, or `log` is combined with a "ray://" address.
    """

    model: str = "denoise"
    options: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    color_strength: float | None = None
    detail: float = 0.0
    format: str | None = None
    quality: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    keep_time: bool = False
    drop_extras: bool = False
    same_quality: bool = False
    mark: bool = False
    workers: int | None = None
    threads: int = 1
    attempts: int = 3
    address: str | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError(f"expected {name} to be at least 1, got {value}")
        if self.log is not None and (self.address or "").startswith("ray://"):
            raise InvalidInputError("the log is on the driver's machine, which ray:// can't access; omit --log")

    @property
    def look(self) -> Look:
        """How results look."""
        return Look(self.strength, self.color_strength, self.detail)

    @property
    def depends(self) -> dict[str, Any]:
        """What results depend on besides the network, for the log."""
        written = output_settings(
            format=self.format, quality=self.quality, same_quality=self.same_quality, mark=self.mark
        )
        return {**self.look.settings(), **written}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a row.

    Attributes:
        row: the row.
        error: error message of one line; None if the result was written.
        attempts: number of attempts; 0 if the row wasn't tried.
        seconds: time in the worker, including reading and writing.
        width, height: displayed size of the image in pixels; 0 if it couldn't be read.
        notes: one line for each thing that was changed or lost while reading or writing.
        change: mean absolute difference between the input and the result in [0,1]; None if unknown.
        worker: process id of the worker; 0 if there was none.
        skipped: whether the row was skipped, because the result was already written, by an earlier run or by a worker
            that died right after; or because the input is a result itself.
    """

    row: Row
    error: str | None = None
    attempts: int = 0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    change: float | None = None
    worker: int = 0
    skipped: bool = False

    @property
    def ok(self) -> bool:
        """Whether the result was written."""
        return self.error is None


def restore_rows(rows: Sequence[Row], settings: Settings) -> Iterator[Outcome]:
    """Restore the rows. Yields exactly one Outcome for each, in the order of completion.

    A worker that dies is replaced, and its current row is restored again. This is safe, as results are written
    atomically, and announced before, so that a result that has replaced its input is not restored again. A row whose
    workers die in every attempt gets an error; the other rows continue.

    Raises:
        MissingExtraError: ray isn't installed.
        InvalidInputError: no cluster responds at the address, or it has too few cores.
        UnknownModelError: the model is unknown.
    """
    path = resolve(settings.model)
    waiting = {index: row for index, row in enumerate(rows) if row.problem is None}
    yield from (Outcome(row, error=row.problem) for row in rows if row.problem is not None)
    for folder in storage.local_folders(row.output for row in waiting.values()):
        files.sweep(folder)  # remove leftovers of a killed run, even if nothing remains to be written
    if not waiting:
        return
    if settings.log is not None:
        _await_log(settings.log)
    with _cluster(settings) as ray:
        workers = _workers(ray, settings)
        # the weights of an OpenVINO graph are in a second file
        parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        weights = None if find(settings.model) else ray.put({file.name: file.read_bytes() for file in parts})
        known = _attempts(ray, settings)
        for found in _run(ray, waiting, settings, workers, weights, known):
            row = waiting.pop(int(found["index"]), None)
            if row is not None:
                known.forget.remote(found["index"])
                yield _outcome(row, found)
        for row in waiting.values():
            yield Outcome(row, error=f"{row.input}: lost by the cluster; run it again")


def error_table(outcomes: Sequence[Outcome]) -> bytes:
    """Return the failed outcomes as CSV with the columns input, output, error, attempts."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["input", "output", "error", "attempts"])
    for one in outcomes:
        if not one.ok:
            table.writerow([one.row.input, one.row.output, one.error, one.attempts])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _await_log(path: Path) -> None:
    """Check early that the log can be written. Waits a few seconds for the process of a killed job to release it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            Lines(path, doing="writing the log", otherwise="choose another --log", error=_InUseError).close()
            return
        except _InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _attempts(ray: Any, settings: Settings) -> Any:
    """Start the Attempts actor, on this machine if there is a log."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0}
    log = None if settings.log is None else os.path.abspath(settings.log)  # noqa: PTH100  # Path.absolute keeps ".."
    if log is not None:
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    return ray.remote(**options)(Attempts).remote(settings.attempts, log, settings.depends)


def _run(
    ray: Any, waiting: dict[int, Row], settings: Settings, workers: int, weights: Any, known: Any
) -> Iterator[dict[str, Any]]:
    items = [
        {
            "index": index,
            "input": row.input,
            "output": row.output,
            "overwrite": row.overwrite,
            "searched": row.searched,
        }
        for index, row in waiting.items()
    ]
    size = max(1, min(_LARGEST_BLOCK, len(items) // (workers * _BLOCKS_PER_WORKER)), len(items) // _MOST_BLOCKS)
    cuda = str(settings.options.get("device", "auto")).startswith("cuda")
    restored = ray.data.from_items(items, override_num_blocks=-(-len(items) // size)).map(
        Worker,
        fn_constructor_kwargs={
            "model": settings.model if weights is None else Path(settings.model).name,
            "weights": weights,
            "options": settings.options,
            "look": asdict(settings.look),
            "output": {
                "format": settings.format,
                "quality": settings.quality,
                "max_pixels": settings.max_pixels,
                "keep_time": settings.keep_time,
                "drop_extras": settings.drop_extras,
                "same_quality": settings.same_quality,
                "mark": settings.mark,
            },
            "threads": settings.threads,
            "attempts": settings.attempts,
            "known": known,
            "has_log": settings.log is not None,
        },
        # by default, Ray Data replaces a dead worker and gives its rows to another
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
        num_cpus=settings.threads,
        num_gpus=1 if cuda else None,
    )
    yield from restored.iter_rows()


def _outcome(row: Row, found: dict[str, Any]) -> Outcome:
    return Outcome(
        row,
        error=found["error"] or None,
        attempts=int(found["attempts"]),
        seconds=float(found["seconds"]),
        width=int(found["width"]),
        height=int(found["height"]),
        notes=tuple(filter(None, found["notes"].split("\n"))),
        change=None if found["change"] < 0 else float(found["change"]),
        worker=int(found["worker"]),
        skipped=bool(found["skipped"]),
    )


def _workers(ray: Any, settings: Settings) -> int:
    cores = int(ray.cluster_resources().get("CPU", 0))
    workers = settings.workers or cores // settings.threads
    if workers < 1 or workers * settings.threads > cores:
        raise InvalidInputError(
            f"{max(workers, 1)} workers with {settings.threads} threads each need {max(workers, 1) * settings.threads} "
            f"cores, but the cluster has {cores}; use fewer workers or threads"
        )
    return workers


@contextmanager
def _cluster(settings: Settings) -> Iterator[Any]:
    """Yield the ray module, connected to a cluster: an existing connection, the one at the address, or a new one."""
    local = settings.address is None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the future default; avoids a warning at start
    if local:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # don't log dead workers
        # Ray replaces 127.0.0.1 by an external address and listens on all interfaces unless this variable, whose name
        # is historical, disables clusters. It is read when ray is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name).partition(".")[0], "ray") from None
    _hush(ray)
    if ray.is_initialized():
        yield ray
        return
    try:
        if local:
            cores = (settings.workers or (os.cpu_count() or 1) // settings.threads or 1) * settings.threads
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address=_LOOPBACK,
            )
            host = ray.get_runtime_context().gcs_address.rpartition(":")[0]
            if host != _LOOPBACK:
                raise InvalidInputError(
                    f"expected a local Ray on {_LOOPBACK}, but it listens on {host}, because ray was imported before; "
                    "set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before importing ray"
                )
        else:
            try:
                ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InvalidInputError(f"no Ray cluster responds at {settings.address}: {reason}") from None
        yield ray
    finally:
        ray.shutdown()


def _hush(ray: Any) -> None:
    """Silence Ray's log lines and progress bars, which would mix with the caller's output."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
