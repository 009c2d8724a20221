"""What a network costs: parameters, and multiply-adds with everything counted."""

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
    """Parameters, and multiply-adds of one forward pass by where they are spent.

    The figures that papers of this family publish are `convolutions` alone: their counter does not see kernel basis
    attention (mixing the bases, applying the kernels, biases) nor the products of transposed attention.
    """

    parameters: int
    pixels: int
    convolutions: int
    kba: int
    attention: int

    @property
    def total(self) -> int:
        """Multiply-adds with everything counted."""
        return self.convolutions + self.kba + self.attention

    @property
    def per_pixel(self) -> float:
        """Multiply-adds a pixel of the input, everything counted."""
        return self.total / self.pixels


def cost(config: Config, height: int = 256, width: int = 256) -> Cost:
    """Count a network's cost on one height x width image without computing it (shapes only).

    Norms, gates, scales and residual additions are not multiply-adds of a product with weights and are left out, as is
    usual.

    Example:
        >>> from kbnet.models import PRESETS
        >>> round(cost(PRESETS["kbnet-s-gaussian-color"]).total / 1e9, 1)
        117.3
    """
    with torch.device("meta"):
        return cost_of(build(config), torch.empty(1, config.channels, height, width))


def cost_of(network: nn.Module, *inputs: Tensor) -> Cost:
    """Count the cost of one call of any network that is made of convolutions and of the layers of `kbnet.nn`.

    Args:
        network: on the device of `inputs`; on the meta device nothing is computed.
        inputs: its arguments; the first is the image [B,C,H,W]. `pixels` is B*H*W.
    """
    spent = {"convolutions": 0, "kba": 0, "attention": 0}

    def count_convolution(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # Each output value of a convolution, or each input value of a transposed one, meets as many weights as this.
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
    """Of the whole batch."""
    return x.shape[0] * x.shape[2] * x.shape[3]
