"""The structure of a whole network as plain data; `kbnet.description` covers single blocks."""

import math
from collections.abc import Iterable
from functools import lru_cache

from kbnet.description import BlockL, BlockS, Layer, Shape, coefficient_width, convolution, describe
from kbnet.models.config import KBNetLConfig, KBNetSConfig

Layers = list[Layer]


@lru_cache(maxsize=64)  # `Layer` compares by identity: new objects would miss the cache of `kbnet.nn.conformity`
def describe_network(config: KBNetSConfig | KBNetLConfig) -> tuple[Layer, ...]:
    """List every layer of the network with these settings, in order of registration, starting with the network.

    Example:
        >>> from kbnet.models import PRESETS
        >>> from kbnet.models.description import describe_network
        >>> [layer.path for layer in describe_network(PRESETS["kbnet-nano"])][:4]
        ['', 'first', 'encoder', 'encoder.0']
    """
    parts = _s(config) if isinstance(config, KBNetSConfig) else _l(config)
    kind = "KBNetS" if isinstance(config, KBNetSConfig) else "KBNetL"
    itself = Layer("", kind, children=tuple(parts))
    return (itself, *(layer.below(name) for name, layers in parts.items() for layer in layers))


def shapes_of(config: KBNetSConfig | KBNetLConfig) -> dict[str, Shape]:
    """Return the shape of every parameter of the network with these settings, under its `state_dict` name.

    Raises:
        InvalidInputError: no network has these settings.
    """
    return {
        f"{layer.path}.{name}".strip("."): shape
        for layer in describe_network(config)
        for name, shape in layer.parameters.items()
        if shape is not None
    }


def count_parameters(config: KBNetSConfig | KBNetLConfig) -> int:
    """Return the number of learned values of the network with these settings."""
    return sum(math.prod(shape) for shape in shapes_of(config).values())


def _s(config: KBNetSConfig) -> dict[str, Layers]:
    def stage(width: int, count: int) -> Layers:
        block = BlockS(
            width,
            coefficient_width(width, config.coefficient_limit),
            config.bases,
            config.group_channels,
            config.kernel_size,
            config.ffn_scale,
            config.lightweight,
        )
        return _several(describe(block).layers for _ in range(count))

    levels = len(config.encoder_blocks)
    widths = [config.width * 2**level for level in range(levels + 1)]
    up = reversed(range(levels))
    return {
        "first": [convolution("", config.channels, config.width, 3)],
        "encoder": _several(stage(w, n) for w, n in zip(widths, config.encoder_blocks, strict=False)),
        "downsample": _several([convolution("", w, 2 * w, 2, stride=2)] for w in widths[:-1]),
        "middle": stage(widths[-1], config.middle_blocks),
        "decoder": _several(stage(widths[i], n) for i, n in zip(up, config.decoder_blocks, strict=True)),
        "upsample": _several(_shuffled(convolution("", w, 2 * w, bias=False), up=True) for w in widths[:0:-1]),
        "last": [convolution("", config.width, config.channels, 3)],
    }


def _l(config: KBNetLConfig) -> dict[str, Layers]:
    w, counts = config.width, config.blocks

    def stage(width: int, count: int, heads: int) -> Layers:
        block = BlockL(
            width,
            heads,
            coefficient_width(width, config.coefficient_limit),
            config.bases,
            config.group_channels,
            config.kernel_size,
            config.expansion,
            config.bias,
        )
        return _several(describe(block).layers for _ in range(count))

    def plain(inputs: int, outputs: int) -> Layer:
        return convolution("", inputs, outputs, 3, bias=False)

    return {
        "first": [plain(config.channels, w)],
        "encoder": _several(stage(w * 2**i, counts[i], config.heads[i]) for i in range(3)),
        "downsample": _several(_shuffled(plain(w * 2**i, w * 2**i // 2), up=False) for i in range(3)),
        "middle": stage(w * 8, counts[3], config.heads[3]),
        "upsample": _several(_shuffled(plain(w * 2**i, w * 2**i * 2), up=True) for i in (3, 2, 1)),
        "reduce": _several([convolution("", w * 2**i * 2, w * 2**i, bias=config.bias)] for i in (2, 1)),
        "decoder": _several(stage(w * 2 ** max(i, 1), counts[i], config.heads[i]) for i in (2, 1, 0)),
        "refinement": stage(w * 2, config.refinement_blocks, config.heads[0]),
        "last": [plain(w * 2, config.channels)],
    }


def _several(modules: Iterable[Iterable[Layer]]) -> Layers:
    """Describe a ModuleList of modules."""
    inside = [[layer.below(str(number)) for layer in layers] for number, layers in enumerate(modules)]
    numbers = tuple(str(number) for number in range(len(inside)))
    return [Layer("", "ModuleList", children=numbers), *(layer for layers in inside for layer in layers)]


def _shuffled(convolution: Layer, *, up: bool) -> Layers:
    """Describe a convolution followed by resampling by two."""
    kind, factor = ("PixelShuffle", "upscale_factor") if up else ("PixelUnshuffle", "downscale_factor")
    shuffle = Layer("1", kind, settings={factor: 2})
    return [Layer("", "Sequential", children=("0", "1")), convolution.below("0"), shuffle]
