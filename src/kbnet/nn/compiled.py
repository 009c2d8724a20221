"""Runs a network's forward pass as one call of the engine, if the network is exactly what its settings describe.

The modules remain the definition. They run instead if any part of the network is wrapped, hooked, replaced or patched,
if gradients or a trace are needed, and where the engine is unavailable or slower.
"""

from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from kbnet import engine
from kbnet.models.description import describe_network
from kbnet.nn import conformity, fused
from kbnet.nn.context import FullFrame, Gather, Local, Shared
from kbnet.nn.kbnet_l import KBNetL
from kbnet.nn.kbnet_s import KBNetS
from kbnet.ops import native

Network = KBNetS | KBNetL


class _Made:
    """A network's engine, which shares the memory of contiguous parameters and copies the others at each call."""

    def __init__(self, network: Network, instruction_set: str, dtype: str) -> None:
        self.key = _key(network, instruction_set, dtype)
        arrays: dict[str, Any] = {}
        self._copies: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for name, parameter in network.named_parameters():
            arrays[name] = live = _array(parameter)
            if not live.flags.c_contiguous:
                arrays[name] = np.empty(live.shape, live.dtype)
                self._copies.append((live, arrays[name]))
        self._engine = engine.Engine(asdict(network.config), arrays, instruction_set=instruction_set, dtype=dtype)

    def __call__(self, image: NDArray[np.float32], context: engine.Context) -> NDArray[np.float32]:
        for live, array in self._copies:
            np.copyto(array, live)
        return self._engine(image, context, threads=torch.get_num_threads())


_engines: WeakKeyDictionary[Network, _Made] = WeakKeyDictionary()


def refuses(network: Network, image: Tensor, context: FullFrame) -> str | None:
    """Return why the engine can't run a network on an image [B,C,H,W], or None if it can.

    Set the environment variable `KBNET_FUSED=off` to always run the layers, for comparison.
    """
    if network.training or torch.is_grad_enabled():
        return "it computes no gradients; use eval() and torch.inference_mode()"
    reason = fused.refuses_here() or fused.refuses_call(image)
    if reason is not None:
        return reason
    if _get_current_dispatch_mode() is not None or _get_current_function_mode() is not None:
        return "an active torch mode needs to see every operation"
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return f"autocast uses {torch.get_autocast_dtype('cpu')}, not bfloat16"
    if type(context) not in (FullFrame, Local, Gather, Shared):
        return f"it doesn't support the context {type(context).__name__}"
    reason = conformity.departure(network, describe_network(network.config))
    if reason is not None:
        return reason
    parameter = network.first.weight
    if parameter.dtype not in (torch.float32, torch.bfloat16) or parameter.device.type != "cpu":
        return f"its parameters are {parameter.dtype} on {parameter.device}"
    return None


def run(network: Network, image: Tensor, context: FullFrame) -> Tensor:
    """Run the engine: [B,C,H,W] -> the same shape and memory format. Call it only if `refuses` returns None."""
    instruction_set = str(native.settings()["instruction_set"])
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else network.first.weight.dtype
    key = _key(network, instruction_set, _name(dtype))
    made = _engines.get(network)
    if made is None or made.key != key:
        made = _engines[network] = _Made(network, instruction_set, _name(dtype))
    ours = _context(context)
    result = torch.from_numpy(made(image.float().numpy(), ours)).to(torch.promote_types(dtype, image.dtype))
    if isinstance(ours, engine.Gather) and isinstance(context, Gather):
        means = zip(ours.means, _shapes(network), strict=True)
        context.means = [torch.from_numpy(mean).view(shape) for mean, shape in means]
    if isinstance(context, Shared):
        context.site = len(context.means)  # the engine used all of them
    if image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous():
        return result.contiguous(memory_format=torch.channels_last)
    return result


def _shapes(network: Network) -> list[tuple[int, ...]]:
    """Return the shape of each average of a `Gather`, in the order in which the modules compute them."""
    if isinstance(network, KBNetS):
        stages = [*network.encoder, network.middle, *network.decoder]
        return [(1, len(block.ffn_norm.weight), 1, 1) for stage in stages for block in stage]
    shapes: list[tuple[int, ...]] = []
    for stage in [*network.encoder, network.middle, *network.decoder, network.refinement]:
        for block in stage:
            channels, heads = len(block.attention_norm.weight), block.attention.heads
            each = channels // heads
            shapes += [(1, channels, 1, 1), (1, heads, each, each), (1, heads, each, 1), (1, heads, each, 1)]
    return shapes


def _key(network: Network, instruction_set: str, dtype: str) -> tuple[object, ...]:
    """Identify what an engine was built for: the addresses of the parameters. It reads their values at each call."""
    return (instruction_set, dtype, *((p.data_ptr(), p.dtype, p.stride()) for p in network.parameters()))


def _array(parameter: Tensor) -> NDArray[Any]:
    """Return a view of a parameter in a form that the engine reads: float32, or bfloat16 as raw uint16."""
    plain = parameter.detach()
    return plain.view(torch.uint16).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _context(context: FullFrame) -> engine.Context:
    if isinstance(context, Local):
        return engine.Local(context.window)
    if isinstance(context, Gather):
        return engine.Gather(context.halo)
    if isinstance(context, Shared):
        return engine.Shared([mean.detach().float().cpu().numpy().reshape(-1) for mean in context.means])
    return engine.FullFrame()
