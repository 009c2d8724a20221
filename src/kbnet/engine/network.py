"""A KBNet-S with its weights, ready to run."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.engine.contexts import Context, FullFrame, Gather, Local, Shared
from kbnet.engine.native import extension
from kbnet.errors import InvalidInputError

Image = NDArray[np.float32]
"""Images [B,C,H,W] with values nominally in [0,1]; rows of pixels are contiguous."""


class Engine:
    """Runs a KBNet-S as one native call. Safe to call from several threads at once.

    Args:
        settings: the fields of `KBNetSConfig`.
        arrays: every parameter under its `state_dict` name; contiguous, float32, or bfloat16 as raw uint16. They are
            not copied: each call reads their current values.
        threads: number of threads per call; defaults to the number of cores that this process may use.
        instruction_set: one of `kbnet.ops.native.instruction_sets()`; defaults to the fastest.

    Raises:
        InvalidInputError: a parameter is missing or has the wrong size, or the instruction set is unknown.
        ImportError: kbnet was installed without its compiled kernels.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        *,
        threads: int | None = None,
        instruction_set: str = "",
    ) -> None:
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        try:
            self._engine = extension().Engine(plain, dict(arrays), instruction_set)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the weights don't match the network's settings: {error}") from error
        self.channels = int(settings["channels"])
        self.threads = threads or len(_usable_cores())

    @property
    def input_multiple(self) -> int:
        """Calls pad the sides of their input with zeros to a multiple of this."""
        return int(self._engine.multiple)

    @property
    def instruction_set(self) -> str:
        """Name of the instruction set that the kernels use."""
        return str(self._engine.instruction_set)

    def bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Return a call's peak memory in bytes for images of this size, not counting input and output."""
        return int(self._engine.bytes(batch, height, width))

    def __call__(self, image: Image, context: Context | None = None, *, threads: int | None = None) -> Image:
        """Restore images [B,C,H,W] of any size; values are neither clipped nor rounded.

        Args:
            image: images [B,C,H,W], nominally in [0,1]. Dtypes other than float32 are converted.
            context: where averages over the image come from; defaults to each image itself.
            threads: number of threads for this call; defaults to the engine's.

        Returns:
            A new float32 array of the same shape.

        Raises:
            InvalidInputError: the number of channels is wrong, the image is empty, or the averages belong to another
                network.
        """
        if image.ndim != 4 or image.shape[1] != self.channels or 0 in image.shape:
            raise InvalidInputError(f"expected an image [B,{self.channels},H,W], got {list(image.shape)}")
        x = np.asarray(image, np.float32)
        if x.strides[3] != x.itemsize:
            x = np.ascontiguousarray(x)
        y = np.empty(x.shape, np.float32)
        context = context or FullFrame()
        shared = (
            [np.asarray(mean, np.float32).tolist() for mean in context.means] if isinstance(context, Shared) else []
        )
        try:
            means = self._engine.run(
                x,
                y,
                context=_NAMES[type(context)],
                window=context.window if isinstance(context, Local) else 0,
                halo=context.halo if isinstance(context, Gather) else 0,
                means=shared,
                threads=threads or self.threads,
            )
        except ValueError as error:
            raise InvalidInputError(str(error)) from error
        if isinstance(context, Gather):
            context.means = [np.array(mean, np.float32) for mean in means]
        return y


_NAMES = {FullFrame: "full", Local: "local", Gather: "gather", Shared: "shared"}


def _usable_cores() -> set[int]:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
