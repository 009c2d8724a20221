"""Runs training steps as CUDA graphs: captured once for each batch size, then replayed with one launch.

A step of a small network launches more than a thousand kernels, and the CPU takes longer to launch them than the GPU
takes to run them. A graph launches all of them at once. It replays the same kernels on the same memory with the same
constants, so everything that changes from step to step must be in tensors that keep their addresses.
"""

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor

_log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps of each batch size before the capture. They allocate optimizer state and compile kernels, and are ordinary
steps of the training."""

Work = Callable[[Tensor, Tensor], Tensor]


def refuses(wanted: str, accelerator: Accelerator) -> str | None:
    """Return why steps run without a graph; None if they can use one, and "" if nobody expects one.

    Args:
        wanted: `run.cuda_graph` of the recipe.
        accelerator: devices and processes.
    """
    if wanted == "off" or accelerator.device.type != "cuda":
        return ""
    if accelerator.num_processes > 1:
        return "several processes train together, and their exchange of gradients can't be captured"
    return None


class Graphs:
    """Runs `work` as a CUDA graph. If it can't be captured, runs it directly and logs one line that says why.

    Args:
        work: one step, from two batches to a small tensor. All other tensors that it reads or changes keep their
            addresses, and nothing in it synchronizes with the GPU.
        recording: context manager that surrounds the capture of `work`. A capture runs no kernels.
        device: the GPU.

    Attributes:
        recorded: number of graphs captured so far.
    """

    def __init__(self, work: Work, recording: Callable[[], AbstractContextManager[None]], device: torch.device) -> None:
        self._work, self._recording = work, recording
        # All steps use one stream, because autograd accumulates gradients on the stream of a parameter's first use.
        self._stream = torch.cuda.Stream(device)
        self._refusal: str | None = None
        self.recorded = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the graph, because its tensors were replaced or the batch size changes."""
        if self._graph is not None:
            torch.cuda.synchronize(self._stream.device)  # a replay may still use memory that is freed with it
        self._key: Hashable = None
        self._seen = 0
        self._graph = None
        self._buffers: tuple[Tensor, ...] = ()
        self._result: Tensor | None = None

    def __call__(self, key: Hashable, *batches: Tensor) -> Tensor:
        """Take one step.

        Args:
            key: everything that selects the kernels of a step, other than the shapes of the batches.
            batches: arguments of `work`, on the CPU or the GPU.
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
            # Other threads may keep allocating pinned memory during the capture, as those of the loader do.
            with (
                self._recording(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                result = self._work(*buffers)
        except RuntimeError as error:  # includes CUDA errors and out of memory
            self._refusal = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            say(self._refusal)
            return
        self._graph, self._buffers, self._result = graph, buffers, result
        self.recorded += 1


def say(reason: str) -> None:
    """Log one line that says why there is no graph."""
    _log.warning("training steps run without CUDA graphs, which is slower for small networks: %s", reason)
