"""Runs the modules of `kbnet.nn` by PyTorch: on GPUs, and live networks of the caller.

This is the only module of the package that knows `kbnet.nn`; it is imported when it is needed.
"""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from kbnet import needs_torch  # noqa: F401
from kbnet.engine import contexts, native
from kbnet.engine.contexts import Context, Image
from kbnet.inference.runners import BUDGET_BYTES, ENGINE_BUDGET_BYTES, engine_bytes_per_pixel
from kbnet.models.config import Config
from kbnet.models.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from kbnet.nn import Network
    from kbnet.nn.context import FullFrame


def network_of(weights: Weights) -> "Network":
    """Build the modules of a network, in eval mode."""
    from kbnet.nn import checkpoint

    return checkpoint.network_of(weights)


class TorchRunner:
    """A live network: later changes to its weights and modules count.

    Args:
        network: moved to the device, in channels-last memory format; on a GPU with bfloat16 a copy is, in that type.
        device: as for `Runner`.
        dtype: float32 or bfloat16. On a CPU, bfloat16 leaves the weights as they are and rounds what is multiplied; the
            engine does so only where that is faster.
    """

    runtime = "torch"

    def __init__(self, network: "Network", device: str, dtype: str) -> None:
        import torch

        if dtype == "bfloat16" and device != "cpu":
            network = copy.deepcopy(network).to(torch.bfloat16)  # the caller's keeps its digits
        self.network: Network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # torch's stub lacks the pair
        self.device, self._requested, self.version = device, dtype, str(torch.__version__)
        if device == "cpu":
            self.version += f" ({torch.backends.cpu.get_cpu_capability()})"

    @property
    def dtype(self) -> str:
        if self._by_engine() and not native.multiplies_in_bfloat16():
            return "float32"
        return "bfloat16" if str(self._dtype()) == "torch.bfloat16" else self._requested

    @property
    def config(self) -> Config:
        return self.network.config

    @property
    def digest(self) -> str:
        from kbnet.nn.checkpoint import weights_of

        return weights_of(self.network).digest

    @property
    def bytes_per_pixel(self) -> int:
        if self._by_engine():
            return engine_bytes_per_pixel(self.config)
        # Growth of the process during one forward pass, in float32 values per pixel, divided by the width. Layer by
        # layer, KBNet-S takes 12.6 to 14.4. KBNet-L takes 25 to 28: its first level has twice the width, and its
        # queries, keys and values exist twice.
        layers = 26 if self.config.family == "kbnet-l" else 15
        return 4 * layers * self.config.width

    @property
    def budget_bytes(self) -> int:
        if not self._by_engine():
            return BUDGET_BYTES
        return ENGINE_BUDGET_BYTES + sum(p.nbytes for p in self.network.parameters())

    def _by_engine(self) -> bool:
        """Whether the engine runs networks with these settings; it refuses one whose modules were changed later."""
        import torch

        from kbnet.nn import KBNetL, KBNetS, fused

        if not isinstance(self.network, KBNetS | KBNetL) or self.device != "cpu" or fused.refuses_here() is not None:
            return False
        return self._dtype() in (torch.float32, torch.bfloat16)

    def __call__(self, image: Image, context: Context) -> Image:
        import torch

        rounded = self.device == "cpu" and self._requested == "bfloat16"
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            x = torch.from_numpy(image if image.flags.writeable else image.copy()).to(self.device)
            if not self._by_engine():
                x = x.contiguous(memory_format=torch.channels_last)
            theirs = self._context(context)
            y: Any = self.network(x, theirs)
            if isinstance(context, contexts.Gather):
                context.means = [mean.float().cpu().numpy() for mean in theirs.means]  # type: ignore[attr-defined]
            result: Image = y.to("cpu", torch.float32).numpy()
            return result

    def _dtype(self) -> Any:
        import torch

        return next((parameter.dtype for parameter in self.network.parameters()), torch.float32)

    def _context(self, context: Context) -> "FullFrame":
        import torch

        from kbnet.nn import context as theirs

        if isinstance(context, contexts.Local):
            return theirs.Local(context.window)
        if isinstance(context, contexts.Gather):
            return theirs.Gather(context.halo)
        if isinstance(context, contexts.Shared):

            def average(mean: Any) -> "Tensor":
                found = torch.from_numpy(np.array(mean, np.float32))
                return (found[None, :, None, None] if found.ndim == 1 else found).to(self.device, self._dtype())

            return theirs.Shared([average(mean) for mean in context.means])
        return theirs.FullFrame()
