"""Runs a network as one native call, without PyTorch."""

import os
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.engine import Engine
from kbnet.engine.contexts import Context, Image
from kbnet.inference.runners import ENGINE_BUDGET_BYTES, engine_bytes_per_pixel
from kbnet.models.weights import Weights, widened


class EngineRunner:
    """A network in `kbnet.engine`. Weights are not copied: float32, and bfloat16 as raw bits.

    Args:
        weights: settings and parameters.
        dtype: "float32", or "bfloat16" to multiply in bfloat16 where the processor does that faster.
    """

    runtime, device, version = "engine", "cpu", ""

    def __init__(self, weights: Weights, dtype: str = "float32") -> None:
        self.weights, self.config, self._requested = weights, weights.config, dtype
        arrays = {name: weights.used(name, _as_read) for name in weights.arrays}
        in_place = any(array is weights.arrays[name] for name, array in arrays.items())
        wish = os.environ.get("KBNET_INSTRUCTION_SET", "")
        self._engine = Engine(
            asdict(weights.config),
            arrays,
            instruction_set=wish,
            dtype=dtype,
            file=weights.mapping if in_place else None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return EngineRunner, (self.weights, self._requested)  # pickling and copying prepare the weights again

    @property
    def dtype(self) -> str:
        return self._engine.dtype

    @property
    def digest(self) -> str:
        return self.weights.digest

    @property
    def bytes_per_pixel(self) -> int:
        return engine_bytes_per_pixel(self.config)

    @property
    def budget_bytes(self) -> int:
        return ENGINE_BUDGET_BYTES + sum(array.nbytes for array in self.weights.arrays.values())

    def __call__(self, image: Image, context: Context) -> Image:
        return self._engine(image, context)


def _as_read(array: NDArray[Any]) -> NDArray[Any]:
    """Return a parameter in a form that the engine reads: float32, or bfloat16 as raw uint16."""
    if array.dtype == np.uint16:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(widened(array), np.float32)
