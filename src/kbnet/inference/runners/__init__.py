"""What runs a network: one small protocol, and one module for each implementation, imported when it is chosen.

    weights --open_weights--> engine (whole networks in one native call), or modules (PyTorch), or reference (numpy)
    graph   --runtimes.open_exported--> graphs.ExportedNetwork, in ONNX Runtime or OpenVINO

The engine runs networks on CPUs and needs no PyTorch, which runs them on GPUs.
"""

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from kbnet.engine import native
from kbnet.engine.contexts import Context, Image
from kbnet.models.config import Config
from kbnet.models.weights import Weights

if TYPE_CHECKING:
    from kbnet.nn import Network

__all__ = ["Context", "Image", "Runner", "open_network", "open_weights"]

BUDGET_BYTES = 768 * 2**20
"""Upper limit for a tile even if more memory is free: larger tiles are not faster, and other programs need memory."""

ENGINE_BUDGET_BYTES = 288 * 2**20
"""The same for networks that run in the engine, besides the size of their weights: it needs a third of the memory."""

_ENGINE_IMAGES = {"kbnet-s": 2, "kbnet-l": 4}
"""Images of the first level in memory at the peak of a call of the engine."""

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs one network on images [B,C,H,W] of float32.

    Attributes:
        runtime: name of what computes: engine, numpy, torch, onnxruntime or openvino.
        device: where, as PyTorch names it: cpu, cuda, cuda:1, ...
    """

    runtime: str
    device: str

    @property
    def dtype(self) -> str:
        """The type of its products: float32 or bfloat16, or int8 for a quantised graph."""

    @property
    def config(self) -> Config:
        """The network's settings."""

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the result: settings and weights, or the files of a graph."""

    @property
    def version(self) -> str:
        """Version of the runtime; empty for kbnet's own."""

    @property
    def bytes_per_pixel(self) -> int:
        """Peak memory of activations for each pixel of the input."""

    @property
    def budget_bytes(self) -> int:
        """The most memory that a tile takes, however much is free."""

    def __call__(self, image: Image, context: Context) -> Image:
        """Restore images [B,C,H,W], nominally in [0,1]; neither clips nor rounds. A `Gather` is given the averages."""


def open_network(network: "Weights | Network", device: str, dtype: str) -> Runner:
    """Choose what runs weights, as `open_weights`, or modules, which run themselves."""
    if isinstance(network, Weights):
        return open_weights(network, device, dtype)
    from kbnet.inference.runners.modules import TorchRunner  # the caller has made the modules

    return TorchRunner(network, device, "float32" if dtype == "auto" else dtype)


def open_weights(weights: Weights, device: str = "cpu", dtype: str = "auto") -> Runner:
    """Choose what runs a network and prepare it.

    With dtype "auto", the engine multiplies in the weights' `fast_dtype`; everything else computes in float32.

    Set the environment variable `KBNET_FUSED=off` to run without the compiled kernels, for comparison.

    Raises:
        MissingExtraError: it needs PyTorch, which isn't installed.
    """
    reason = _engine_refuses()
    if device == "cpu" and reason is None:
        from kbnet.inference.runners.engine import EngineRunner

        return EngineRunner(weights, weights.fast_dtype if dtype == "auto" else dtype)
    if has_torch() or device != "cpu":
        from kbnet.inference.runners.modules import TorchRunner, network_of

        return TorchRunner(network_of(weights), device, "float32" if dtype == "auto" else dtype)
    from kbnet.inference.runners.reference import ReferenceRunner

    _say_slow(reason)
    return ReferenceRunner(weights)


def engine_bytes_per_pixel(config: Config) -> int:
    """Peak memory of activations in the engine for each pixel; input and scratch take up to 16 values."""
    return 4 * (_ENGINE_IMAGES[config.family] * config.width + 16)


def has_torch() -> bool:
    """Whether PyTorch is installed; doesn't import it."""
    try:
        return find_spec("torch") is not None
    except (ImportError, ValueError):
        return False


def _engine_refuses() -> str | None:
    if os.environ.get("KBNET_FUSED") == "off":
        return "KBNET_FUSED is off"
    return native.refuses_here()


@cache
def _say_slow(reason: str | None) -> None:
    """Warn once per process that the last resort runs."""
    _log.warning("running in numpy, which takes minutes for each megapixel: %s, and PyTorch isn't installed", reason)
