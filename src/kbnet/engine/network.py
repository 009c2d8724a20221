"""A network with its weights, ready to run."""

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.engine.contexts import Context, FullFrame, Gather, Image, Local, Shared
from kbnet.engine.native import extension
from kbnet.engine.threads import default_threads
from kbnet.errors import InvalidInputError


class Engine:
    """Runs a KBNet-S or KBNet-L as one native call. Safe to call from several threads at once.

    Args:
        settings: the fields of `KBNetSConfig` or `KBNetLConfig`.
        arrays: every parameter under its `state_dict` name; contiguous, float32, or bfloat16 as raw uint16. They are
            not copied: each call reads their current values.
        threads: number of threads per call; defaults to `kbnet.engine.threads.default_threads()`.
        instruction_set: one of `kbnet.ops.native.instruction_sets()`; defaults to the fastest.
        dtype: "float32", or "bfloat16" to round what is multiplied to bfloat16 if the instruction set has products of
            it. Sums and images are float32 in any case.
        file: the read-only mapping that holds the arrays. On Linux, calls for large images then keep only one layer's
            parameters in memory.

    Raises:
        InvalidInputError: a parameter is missing or has the wrong size, the instruction set or dtype is unknown, or the
            mapping is writable.
        ImportError: kbnet was installed without its compiled kernels.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        *,
        threads: int | None = None,
        instruction_set: str = "",
        dtype: str = "float32",
        file: mmap.mmap | None = None,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise InvalidInputError(f"expected dtype 'float32' or 'bfloat16', got {dtype!r}")
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        pages = None if file is None else _read_only(file)
        try:
            self._engine = extension().Engine(plain, dict(arrays), instruction_set, dtype == "bfloat16", pages)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the weights don't match the network's settings: {error}") from error
        self.channels = int(settings["channels"])
        self.threads = threads

    @property
    def input_multiple(self) -> int:
        """Calls pad the sides of their input with zeros to a multiple of this."""
        return int(self._engine.multiple)

    @property
    def instruction_set(self) -> str:
        """Name of the instruction set that the kernels use."""
        return str(self._engine.instruction_set)

    @property
    def dtype(self) -> str:
        """The type of its products: "bfloat16" if that was requested and the instruction set has them."""
        return "bfloat16" if self._engine.in_bfloat16 else "float32"

    def bytes(self, height: int, width: int, batch: int = 1, window: int = 0) -> int:
        """Return a call's peak memory in bytes for images of this size, not counting input and output.

        `window` is that of a local context, 0 with others.
        """
        return int(self._engine.bytes(batch, height, width, window))

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
        if x.strides[3] != x.itemsize or not x.flags.writeable:  # the extension takes no read-only arrays
            x = np.array(x, order="C")
        y = np.empty(x.shape, np.float32)
        context = context or FullFrame()
        stored = context.means if isinstance(context, Shared) else []
        shared = [np.asarray(mean, np.float32).ravel().tolist() for mean in stored]
        try:
            means = self._engine.run(
                x,
                y,
                context=_NAMES[type(context)],
                window=context.window if isinstance(context, Local) else 0,
                halo=context.halo if isinstance(context, Gather) else 0,
                means=shared,
                threads=threads or self.threads or default_threads(),
            )
        except ValueError as error:
            raise InvalidInputError(str(error)) from error
        if isinstance(context, Gather):
            context.means = [np.array(mean, np.float32) for mean in means]
        return y


def _read_only(file: mmap.mmap) -> NDArray[np.uint8]:
    pages = np.frombuffer(file, np.uint8)
    if pages.flags.writeable:  # releasing such pages would lose what was written to them
        raise InvalidInputError("expected a read-only mapping of the file (mmap.ACCESS_READ), got a writable one")
    return pages


_NAMES = {FullFrame: "full", Local: "local", Gather: "gather", Shared: "shared"}
