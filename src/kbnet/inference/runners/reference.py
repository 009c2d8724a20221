"""Runs a network in numpy: the last resort, where there are neither compiled kernels nor PyTorch."""

from dataclasses import asdict

import numpy as np

from kbnet.engine.contexts import Context, Image
from kbnet.engine.reference import restore
from kbnet.inference.runners import BUDGET_BYTES
from kbnet.models.weights import Weights, widened


class ReferenceRunner:
    """A network in `kbnet.engine.reference`."""

    runtime, device, dtype = "numpy", "cpu", "float32"
    budget_bytes = BUDGET_BYTES
    version = np.__version__

    def __init__(self, weights: Weights) -> None:
        self.weights, self.config = weights, weights.config
        self._settings = asdict(weights.config)
        self._parameters = {name: widened(array).astype(np.float32) for name, array in weights.arrays.items()}

    @property
    def digest(self) -> str:
        return self.weights.digest

    @property
    def bytes_per_pixel(self) -> int:
        return 4 * 12 * self.config.width

    def __call__(self, image: Image, context: Context) -> Image:
        return restore(image, self._parameters, self._settings, context).astype(np.float32, copy=False)
