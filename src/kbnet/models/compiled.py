"""A network's forward pass as one call of the engine, where the network is just what its settings say.

The modules remain the definition. They run instead wherever anything was wrapped, hooked, replaced or patched, wherever
gradients or a trace are wanted, and wherever the engine cannot or is slower.
"""

from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from kbnet import engine
from kbnet.models.description import describe_network
from kbnet.models.kbnet_s import KBNetS
from kbnet.nn import conformity, fused
from kbnet.nn.context import FullFrame, Gather, Local, Shared

_Fingerprint = tuple[tuple[int, int], ...]

_engines: WeakKeyDictionary[KBNetS, tuple[_Fingerprint, str, engine.Engine]] = WeakKeyDictionary()


def refuses(network: KBNetS, image: Tensor, context: FullFrame) -> str | None:
    """Why the layers of a network run on [B,C,H,W] one by one; None if the engine runs it.

    `KBNET_FUSED=off` in the environment makes the layers run always, to compare with.
    """
    if network.training or torch.is_grad_enabled():
        return "it computes no gradients; use eval() and torch.inference_mode()"
    reason = fused.refuses_here() or fused.refuses_call(image)
    if reason is not None:
        return reason
    if _get_current_dispatch_mode() is not None or _get_current_function_mode() is not None:
        return "a mode of torch wants to see every operation"
    if image.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return "it computes float32"
    if type(context) not in (FullFrame, Local, Gather, Shared):
        return f"the engine does not know the context {type(context).__name__}"
    widest = network.config.width * network.input_multiple
    if widest > fused.MAX_CHANNELS:
        return f"with more than {fused.MAX_CHANNELS} channels its layers are faster one by one"
    reason = conformity.departure(network, describe_network(network.config))
    if reason is not None:
        return reason
    parameter = network.first.weight
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        return f"its parameters are {parameter.dtype} on {parameter.device}"
    if any(p.is_inference() for p in network.parameters()):
        return "its parameters were made in inference mode, where changes of them go unnoticed"
    return None


def run(network: KBNetS, image: Tensor, context: FullFrame) -> Tensor:
    """[B,C,H,W] -> the same, in the memory format of the image; only where `refuses` does not."""
    runner = _engine(network)
    ours = _context(context)
    result = torch.from_numpy(runner(image.numpy(), ours, threads=torch.get_num_threads()))
    if isinstance(ours, engine.Gather) and isinstance(context, Gather):
        context.means = [torch.from_numpy(mean)[None, :, None, None] for mean in ours.means]
    if image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous():
        return result.contiguous(memory_format=torch.channels_last)
    return result


def _engine(network: KBNetS) -> engine.Engine:
    """The engine of a network, made anew when a parameter or the instruction set changes."""
    fingerprint = tuple((p.data_ptr(), p._version) for p in network.parameters())
    wish = str(fused.native.settings()["instruction_set"])
    known = _engines.get(network)
    if known is not None and known[:2] == (fingerprint, wish):
        return known[2]
    arrays: dict[str, Any] = {name: np.ascontiguousarray(p.detach().numpy()) for name, p in network.named_parameters()}
    made = engine.Engine(asdict(network.config), arrays, instruction_set=wish)
    _engines[network] = (fingerprint, wish, made)
    return made


def _context(context: FullFrame) -> engine.Context:
    if isinstance(context, Local):
        return engine.Local(context.window)
    if isinstance(context, Gather):
        return engine.Gather(context.halo)
    if isinstance(context, Shared):
        return engine.Shared([mean.detach().float().cpu().numpy().reshape(-1) for mean in context.means])
    return engine.FullFrame()
