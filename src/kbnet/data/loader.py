"""Batches made ahead of the step that needs them, in processes of their own, always in the order of the steps."""

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
    """An iterator over the batches of steps `first` to `last` - 1, and the time that was waited for them.

    Args:
        batch: makes the batch of a step; a pure function, or a run could not be repeated. Workers get a pickled copy.
        first, last: steps.
        workers: processes that make batches ahead; with 0 each is made when it is asked for.
        pin: keep batches in page-locked memory, from which a GPU copies while it computes.
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
            warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as asked for
            loader: DataLoader[Batch] = DataLoader(
                _Steps(batch, last),
                batch_size=None,
                sampler=range(first, last),
                num_workers=workers,
                pin_memory=pin,
                generator=torch.Generator(),  # its seed goes nowhere, but torch's own generator is left alone
                **options,
            )
            self._batches = iter(loader)

    def next(self) -> Batch:
        """The next step's batch."""
        started = time.perf_counter()
        clean, degraded = next(self._batches)
        self.waited += time.perf_counter() - started
        return clean, degraded

    def close(self) -> None:
        """End the workers."""
        shut_down = getattr(self._batches, "_shutdown_workers", None)  # else only when garbage is collected
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
    """Workers are not forked from this process: what they decode with starts threads, and a fork has none of them."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kbnet.data"])  # imported once, and not by each worker
    return context


def _settle(worker: int) -> None:
    # Signals to end reach every process of a group. The parent finishes its step with the batches made here, and ends
    # the workers itself.
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # A parent that is killed ends nobody: a worker and the server it was forked from would keep each other alive.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
