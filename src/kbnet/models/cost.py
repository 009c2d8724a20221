"""The cost of a network: its parameters and all its multiply-adds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kbnet.models.presets import Config, build, count_parameters
from kbnet.nn import KernelBasisAttention, TransposedAttention
from kbnet.ops import multiply_adds


@dataclass(frozen=True)
class Cost:
    """Parameters of a network, and multiply-adds (MACs) of one forward pass by kind of layer.

    Papers on this family of networks publish `convolutions` alone: their counter misses kernel basis attention (mixing
    the bases, applying the kernels, biases) and the matrix products of transposed attention.

    Attributes:
        parameters: number of learned values.
        pixels: pixels of the input, B*H*W.
        convolutions: multiply-adds of convolutions.
        kba: multiply-adds of kernel basis attention.
        attention: multiply-adds of the matrix products in transposed attention.
    """

    parameters: int
    pixels: int
    convolutions: int
    kba: int
    attention: int

    @property
    def total(self) -> int:
        """All multiply-adds of one forward pass."""
        return self.convolutions + self.kba + self.attention

    @property
    def per_pixel(self) -> float:
        """All multiply-adds per input pixel."""
        return self.total / self.pixels


def cost(config: Config, height: int = 256, width: int = 256) -> Cost:
    """Count a network's cost on one `height` x `width` image from shapes alone, without running it.

    As is common, this leaves out norms, gates, scales and residual additions.

    Example:
        >>> from kbnet.models import PRESETS
        >>> round(cost(PRESETS["kbnet-s-gaussian-color"]).total / 1e9, 1)
        117.3
    """
    with torch.device("meta"):
        return cost_of(build(config), torch.empty(1, config.channels, height, width))


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
