"""A training step as a CUDA graph: recorded once for each size of batch, then started by one call.

A step of a small network launches over a thousand kernels, and the processor takes longer to launch them than the GPU
to run them. A graph holds them all. What it was recorded with, it repeats: the same memory, the same numbers. So
everything that differs from step to step has to lie in tensors that stay where they are.
"""

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor

_log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps of each size before the recording: they create what is created at the first use, and compile kernels. They are
steps of the training like any other."""

Work = Callable[[Tensor, Tensor], Tensor]


def refuses(wanted: str, accelerator: Accelerator) -> str | None:
    """Why steps run without a graph; None if they can have one. "" where nobody would expect one.

    Args:
        wanted: `run.cuda_graph` of a recipe.
        accelerator: devices and processes.
    """
    if wanted == "off" or accelerator.device.type != "cuda":
        return ""
    if accelerator.num_processes > 1:
        return "several processes train together, and their exchange of gradients is not recorded"
    return None


class Graphs:
    """Runs `work` as a CUDA graph where it can; where it cannot, as it is, with one line of log that says why.

    Args:
        work: a step: two batches -> a small tensor. Everything else that it reads or changes stays in its place, and
            nothing in it waits for the GPU.
        recording: what surrounds a recording of `work`, which runs none of its kernels.
        device: the GPU.

    Attributes:
        recorded: graphs so far.
    """

    def __init__(self, work: Work, recording: Callable[[], AbstractContextManager[None]], device: torch.device) -> None:
        self._work, self._recording = work, recording
        # All steps on one stream: autograd starts where a parameter was first used.
        self._stream = torch.cuda.Stream(device)
        self._refusal: str | None = None
        self.recorded = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the graph, since what it works on has moved or changed its size."""
        if self._graph is not None:
            torch.cuda.synchronize(self._stream.device)  # it may still run, in memory that goes with it
        self._key: Hashable = None
        self._seen = 0
        self._graph = None
        self._buffers: tuple[Tensor, ...] = ()
        self._result: Tensor | None = None

    def __call__(self, key: Hashable, *batches: Tensor) -> Tensor:
        """Take a step.

        Args:
            key: what decides which kernels run, besides the shapes of the batches.
            batches: on the processor or the GPU.
        """
        key = (key, *(batch.shape for batch in batches))
        if key != self._key:
            self.forget()
            self._key = key
        if self._graph is None and self._refusal is None and self._seen >= WARM_UP:
            self._record(batches)
        if self._graph is None or self._result is None:
            self._seen += 1
            return self._as_it_is(batches)
        for buffer, batch in zip(self._buffers, batches, strict=True):
            buffer.copy_(batch, non_blocking=True)
        self._graph.replay()
        return self._result.clone()  # the next step overwrites it

    def _as_it_is(self, batches: tuple[Tensor, ...]) -> Tensor:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = self._work(*(batch.to(self._stream.device, non_blocking=True) for batch in batches))
        current.wait_stream(self._stream)
        return result

    def _record(self, batches: tuple[Tensor, ...]) -> None:
        buffers = tuple(batch.to(self._stream.device, copy=True) for batch in batches)
        graph = torch.cuda.CUDAGraph()
        try:
            # The loader's threads may allocate pinned memory meanwhile, which only this thread must not.
            with (
                self._recording(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = self._work(*buffers)
        except RuntimeError as error:  # torch's errors of CUDA, memory among them
            self._refusal = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            say(self._refusal)
            return
        self._graph, self._buffers, self._result = graph, buffers, result
        self.recorded += 1


def say(reason: str) -> None:
    """One line of log on why there is no graph."""
    _log.warning("training steps run without a CUDA graph, slower for small networks: %s", reason)
