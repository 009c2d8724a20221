"""The cost of a network, from its settings alone: its parameters and all its multiply-adds."""

import re
from dataclasses import dataclass

from kbnet.description import Layer
from kbnet.errors import InvalidInputError
from kbnet.models.config import Config
from kbnet.models.description import count_parameters, describe_network


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
    """Count a network's cost on one `height` x `width` image from its settings, without building it.

    As is common, this leaves out norms, gates, scales and residual additions.

    Raises:
        InvalidInputError: a KBNet-L doesn't take images of this size.

    Example:
        >>> from kbnet.models import PRESETS
        >>> round(cost(PRESETS["kbnet-s-gaussian-color"]).total / 1e9, 1)
        117.3
    """
    multiple = config.input_multiple
    if config.family == "kbnet-l" and (height % multiple or width % multiple):
        raise InvalidInputError(f"expected sides that are multiples of {multiple}, got {height} x {width}")
    rows, cols = -(-height // multiple) * multiple, -(-width // multiple) * multiple
    levels = multiple.bit_length() - 1
    spent = {"convolutions": 0, "kba": 0, "attention": 0}
    heads = 1
    for layer in describe_network(config):
        if layer.kind == "TransposedAttention":
            heads = layer.settings["heads"]  # of the layers that follow
            continue
        step = 2 ** _level(layer, levels)
        pixels = 1 if layer.path.endswith("channel_branch.mix") else (rows // step) * (cols // step)
        kind = "kba" if layer.kind == "KernelBasisAttention" else "convolutions"
        spent[kind] += pixels * layer.multiply_adds()
        if layer.path.endswith("attention.out"):
            channels = layer.shape("weight")[0]
            spent["attention"] += pixels * 2 * channels * (channels // heads)
    return Cost(parameters=count_parameters(config), pixels=height * width, **spent)


def _level(layer: Layer, levels: int) -> int:
    """Return how often the resolution is halved where a layer computes its output."""
    stage, _, rest = layer.path.partition(".")
    number = int(found[0]) if (found := re.match(r"\d+", rest)) else 0
    if stage in ("encoder", "middle"):
        return levels if stage == "middle" else number
    if stage == "downsample":
        return number + (layer.settings.get("stride") == (2, 2))  # KBNet-L's convolves first, then rearranges pixels
    if stage == "upsample":
        return levels - number
    if stage in ("decoder", "reduce"):
        return levels - 1 - number
    return 0  # first, last, refinement
