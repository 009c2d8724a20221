"""Batches made ahead of the step that needs them, in processes of their own, always in the order of the steps."""

import ctypes
import signal
import sys
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h: the signal that a process gets when its parent ends


class Loader:
    """An iterator over the batches of steps `first` to `last` - 1, and the time that was waited for them.

    Args:
        batch: makes the batch of a step; a pure function, or a run could not be repeated.
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
            # Forked, since that shares the photos in memory; nothing is decoded and no GPU is touched in a worker.
            context = "fork" if "fork" in torch.multiprocessing.get_all_start_methods() else None
            options = {"prefetch_factor": 4, "multiprocessing_context": context, "worker_init_fn": _quiet}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process that has threads
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


def _quiet(worker: int) -> None:
    # Ctrl-C and a closed terminal reach every process of a group. The parent finishes its step with the batches made
    # here, and ends the workers itself.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        # torch looks every few seconds for a parent that was killed; until then its ports would stay in use here.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
