"""What a network costs: parameters, and multiply-adds with everything counted."""

import math
from dataclasses import dataclass

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
    spent = {"convolutions": 0, "kba": 0, "attention": 0}

    def count_convolution(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        taps = module.in_channels // module.groups * math.prod(module.kernel_size)
        spent["convolutions"] += output.numel() * taps

    def count_kba(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, KernelBasisAttention)
        bases, channels = module.bias.shape
        group_channels, kernel_size, _ = module.taps
        spent["kba"] += math.prod(output.shape[2:]) * multiply_adds(channels, bases, group_channels, kernel_size)

    def count_attention(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, TransposedAttention)
        channels = output.shape[1]
        spent["attention"] += math.prod(output.shape[2:]) * 2 * channels * (channels // module.heads)

    with torch.device("meta"):
        network = build(config)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count_convolution)
            elif isinstance(module, KernelBasisAttention):
                module.register_forward_hook(count_kba)
            elif isinstance(module, TransposedAttention):
                module.register_forward_hook(count_attention)
        with torch.no_grad():
            network(torch.empty(1, config.channels, height, width))
    return Cost(parameters=count_parameters(network), pixels=height * width, **spent)
