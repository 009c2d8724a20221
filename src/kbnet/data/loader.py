"""Prefetches batches in worker processes, in the order of the steps."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]


class Loader:
    """Iterates over the batches of steps `first` to `last` - 1, and measures the time spent waiting for them.

    Args:
        batch: makes the batch of a step. Must be a pure function, so that runs are reproducible. Workers get a pickled
            copy.
        first, last: first step, and last step + 1.
        workers: number of worker processes; 0 makes each batch on request in this process.
        pin: whether to put batches in page-locked memory, from which a GPU can copy while it computes.
    """

    def __init__(
        self, batch: Callable[[int], Batch], first: int, last: int, workers: int = 0, pin: bool = False
    ) -> None:
        self.waited = 0.0
        """Seconds spent waiting so far."""
        options: dict[str, Any] = {}
        if workers:
            options = {"prefetch_factor": 4, "multiprocessing_context": _context(), "worker_init_fn": _settle}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, as requested
            loader: DataLoader[Batch] = DataLoader(
                _Steps(batch, last),
                batch_size=None,
                sampler=range(first, last),
                num_workers=workers,
                pin_memory=pin,
                generator=torch.Generator(),  # unused, but keeps DataLoader from drawing from torch's global generator
                **options,
            )
            self._batches = iter(loader)

    def next(self) -> Batch:
        """Return the batch of the next step."""
        started = time.perf_counter()
        clean, degraded = next(self._batches)
        self.waited += time.perf_counter() - started
        return clean, degraded

    def close(self) -> None:
        """Stop the workers."""
        shut_down = getattr(self._batches, "_shutdown_workers", None)  # otherwise done only at garbage collection
        if shut_down is not None:
            shut_down()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Steps(Dataset[Batch]):
    def __init__(self, batch: Callable[[int], Batch], steps: int) -> None:
        self._batch, self._steps = batch, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        return self._batch(step)


def _context() -> Any:
    """Return a context that doesn't fork this process: decoders start threads, which don't survive a fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kbnet.data"])  # import it once rather than in each worker
    return context


def _settle(worker: int) -> None:
    # Termination signals reach all processes of a group. Ignore them: the parent finishes its step with the batches
    # made here, and then stops the workers itself.
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # If the parent is killed, nobody stops the workers: a worker and its fork server would keep each other alive.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
