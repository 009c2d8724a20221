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
"""[B,C,H,W], nominally in [0,1]; rows of pixels are contiguous."""


class Engine:
    """Runs a KBNet-S as one native call. Several threads may call one engine at once.

    Args:
        settings: the fields of `KBNetSConfig`.
        arrays: every parameter by its name in the module's state, float32, or bfloat16 as raw uint16; contiguous. They
            are used where they lie, as they are at the time of a call.
        threads: that a call uses; by default as many as this process may run at once.
        instruction_set: one of `kbnet.ops.native.instruction_sets()`; the fastest if left out.

    Raises:
        InvalidInputError: a parameter is missing or of another size, or there is no such instruction set.
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
            raise InvalidInputError(f"the weights do not fit the network's settings: {error}") from error
        self.channels = int(settings["channels"])
        self.threads = threads or len(_usable_cores())

    @property
    def input_multiple(self) -> int:
        """Sides are padded with zeros to a multiple of this, inside the call."""
        return int(self._engine.multiple)

    @property
    def instruction_set(self) -> str:
        """What the kernels were compiled for."""
        return str(self._engine.instruction_set)

    def bytes(self, height: int, width: int, batch: int = 1) -> int:
        """Memory that a call takes at its peak for images of this size, besides its input and output."""
        return int(self._engine.bytes(batch, height, width))

    def __call__(self, image: Image, context: Context | None = None, *, threads: int | None = None) -> Image:
        """Restore images [B,C,H,W] of any size; values are neither clipped nor rounded.

        Args:
            image: float32; other dtypes and layouts are copied.
            context: where averages come from; the image itself by default.
            threads: for this call, in place of the engine's own number.

        Returns:
            A new array of the same shape.

        Raises:
            InvalidInputError: another number of channels, no pixels, or averages of another network.
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
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
