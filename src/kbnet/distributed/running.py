"""A job on Ray Data: workers that live as long as it, rows in, outcomes out in the order in which they are done."""

import csv
import io
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.distributed import storage
from kbnet.distributed.attempts import Attempts
from kbnet.distributed.planning import Row
from kbnet.distributed.worker import Worker
from kbnet.errors import InvalidInputError, MissingExtraError, OutputError
from kbnet.imaging import DEFAULT_MAX_PIXELS
from kbnet.lines import Lines
from kbnet.models import find, resolve

_LOOPBACK = "127.0.0.1"
_OBJECT_STORE = 128 * 2**20  # bytes; names and outcomes are all that goes through it
# Rows that a worker is given at once: each gift costs a little, and a dead worker's go to one other.
_LARGEST_BLOCK = 8
_BLOCKS_PER_WORKER = 16
_MOST_BLOCKS = 20_000  # of a job; Ray keeps something of each
_PATIENCE = 20.0  # seconds until the processes of a job whose driver was killed have ended


class _InUseError(OutputError):
    """Another process has the log."""


@dataclass(frozen=True)
class Settings:
    """How pictures are restored, and by how many workers.

    Attributes:
        model: a shipped model, a task, or a weights file that the driver can read; it is sent to the workers.
        options: keyword arguments of `Restorer.from_pretrained`: device, dtype, tile, overlap, context, ensemble.
        strength: 1 for the restored picture, 0 for the input, between for a blend.
        format, quality, max_pixels, keep_time, drop_extras: as `kbnet.inference.jobs.run_jobs` takes them; times are
            those of local files.
        workers: processes; None for as many as `threads` allow on the cores there are.
        threads: of each worker.
        attempts: how often a picture is tried where reading, writing or the worker itself fails.
        log: file on the driver's machine, the run's ledger (`kbnet.inference.ledger`): results that it shows to be done
            are skipped, so that a run that was killed goes on. None for none.
        address: of a Ray cluster, as ray.init takes it ("auto", "10.0.0.1:6379", "ray://..."); None starts one on this
            machine for the job, which listens on 127.0.0.1 alone.
    """

    model: str = "denoise"
    options: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    format: str | None = None
    quality: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    keep_time: bool = False
    drop_extras: bool = False
    workers: int | None = None
    threads: int = 1
    attempts: int = 3
    address: str | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError(f"expected at least 1 of {name}, got {value}")
        if self.log is not None and (self.address or "").startswith("ray://"):
            raise InvalidInputError("a log is kept on the driver's machine, which ray:// is not part of; leave it out")


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    Attributes:
        row: the row.
        error: one line, or None if the result is in its place.
        attempts: how often it was tried; 0 if it was not.
        seconds: of the worker, reading and writing included.
        width, height: of the picture as shown, 0 if it could not be read.
        notes: one line for each thing that reading or writing had to change.
        change: mean absolute difference between the picture and its result on the scale of [0,1], if it is known.
        worker: process id, 0 if there was none.
        skipped: an earlier run wrote the result already, by its log; nothing was done now.
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
        """Whether the result is in its place."""
        return self.error is None


def restore_rows(rows: Sequence[Row], settings: Settings) -> Iterator[Outcome]:
    """Restore the rows, yielding exactly one Outcome for each, in the order in which they are done.

    A worker that dies is replaced, and the row it was at is done again; a result is written in one step to the same
    place, so that doing it twice leaves one. A row whose workers die every time is an error, and the others go on.

    Raises:
        MissingExtraError: ray is not installed.
        InvalidInputError: no cluster answers at the address, or it has too few cores.
        UnknownModelError: there is no such model.
    """
    path = resolve(settings.model)
    waiting = {index: row for index, row in enumerate(rows) if row.problem is None}
    yield from (Outcome(row, error=row.problem) for row in rows if row.problem is not None)
    for folder in storage.local_folders(row.output for row in waiting.values()):
        files.sweep(folder)  # what a killed run left there, perhaps with nothing more to write
    if not waiting:
        return
    if settings.log is not None:
        _await_log(settings.log)
    with _cluster(settings) as ray:
        workers = _workers(ray, settings)
        # an OpenVINO graph has its weights in a second file
        parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        weights = None if find(settings.model) else ray.put({file.name: file.read_bytes() for file in parts})
        known = _attempts(ray, settings)
        for found in _run(ray, waiting, settings, workers, weights, known):
            row = waiting.pop(int(found["index"]), None)
            if row is not None:
                known.forget.remote(found["index"])
                yield _outcome(row, found)
        for row in waiting.values():
            yield Outcome(row, error=f"{row.input}: the cluster lost it")


def error_table(outcomes: Sequence[Outcome]) -> bytes:
    """The failed ones of `outcomes` as CSV with the columns input, output, error, attempts."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["input", "output", "error", "attempts"])
    for one in outcomes:
        if not one.ok:
            table.writerow([one.row.input, one.row.output, one.error, one.attempts])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _await_log(path: Path) -> None:
    """Refuse early a log that cannot be kept; the process that kept it for a job that was killed needs some seconds."""
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
    """The actor that knows of all rows; on this machine, where the log is."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0}
    log = None if settings.log is None else os.path.abspath(settings.log)  # noqa: PTH100  # Path.absolute keeps ".."
    if log is not None:
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    depends = {"strength": settings.strength, "format": settings.format, "quality": settings.quality}
    return ray.remote(**options)(Attempts).remote(settings.attempts, log, depends)


def _run(
    ray: Any, waiting: dict[int, Row], settings: Settings, workers: int, weights: Any, known: Any
) -> Iterator[dict[str, Any]]:
    items = [
        {"index": index, "input": row.input, "output": row.output, "overwrite": row.overwrite}
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
            "strength": settings.strength,
            "output": {
                "format": settings.format,
                "quality": settings.quality,
                "max_pixels": settings.max_pixels,
                "keep_time": settings.keep_time,
                "drop_extras": settings.drop_extras,
            },
            "threads": settings.threads,
            "attempts": settings.attempts,
            "known": known,
            "has_log": settings.log is not None,
        },
        # a worker that dies is replaced, and its rows go to another: Ray Data's defaults
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
            f"expected a cluster of {max(workers, 1) * settings.threads} cores for {max(workers, 1)} workers of "
            f"{settings.threads} threads, it has {cores}; give fewer"
        )
    return workers


@contextmanager
def _cluster(settings: Settings) -> Iterator[Any]:
    """The ray module with a cluster: one that is joined already, the one at the address, or one started here."""
    local = settings.address is None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default, announced at every start
    if local:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # a dead worker is no news for people
        # Ray replaces 127.0.0.1 by an address that others can reach, and listens on all of them, unless it is told that
        # this is not to be a cluster; the name is historical, and it is read when ray is imported.
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
                    f"expected a local Ray on {_LOOPBACK}, it listens on {host}; ray was imported before this job, so "
                    "set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before that"
                )
        else:
            try:
                ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InvalidInputError(f"no Ray cluster answers at {settings.address}: {reason}") from None
        yield ray
    finally:
        ray.shutdown()


def _hush(ray: Any) -> None:
    """Outcomes are reported by the caller; Ray's own lines and bars would run through them."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
