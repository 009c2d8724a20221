"""The cost of live modules, counted while they run. `kbnet.models.cost` computes it from settings alone."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kbnet.models.cost import Cost
from kbnet.nn.layers import KernelBasisAttention, TransposedAttention
from kbnet.nn.networks import count_parameters
from kbnet.ops import multiply_adds


def cost_of(network: nn.Module, *inputs: Tensor) -> Cost:
    """Count the cost of one call of any network built from convolutions and the layers of `kbnet.nn`.

    Args:
        network: a network on the device of `inputs`; on the meta device, nothing is computed.
        inputs: arguments of the call. The first one is the image [B,C,H,W].
    """
    spent = {"convolutions": 0, "kba": 0, "attention": 0}

    def count_convolution(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Weights per output value of a convolution, or per input value of a transposed one.
        transposed = isinstance(module, nn.ConvTranspose2d)
        channels = module.out_channels if transposed else module.in_channels
        values = inputs[0] if transposed else output
        spent["convolutions"] += values.numel() * (channels // module.groups) * math.prod(module.kernel_size)

    def count_kba(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        bases, channels = module.bias.shape
        group_channels, kernel_size, _ = module.taps
        spent["kba"] += _pixels(output) * multiply_adds(channels, bases, group_channels, kernel_size)

    def count_attention(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channels = output.shape[1]
        spent["attention"] += _pixels(output) * 2 * channels * (channels // module.heads)

    counters: dict[type[nn.Module], Callable[[Any, tuple[Tensor, ...], Tensor], None]] = {
        nn.Conv2d: count_convolution,
        nn.ConvTranspose2d: count_convolution,
        KernelBasisAttention: count_kba,
        TransposedAttention: count_attention,
    }
    handles = [
        module.register_forward_hook(counter)
        for module in network.modules()
        for kind, counter in counters.items()
        if isinstance(module, kind)
    ]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Cost(parameters=count_parameters(network), pixels=_pixels(inputs[0]), **spent)


def _pixels(x: Tensor) -> int:
    """Pixels of the whole batch."""
    return x.shape[0] * x.shape[2] * x.shape[3]
