"""A whole network as an ONNX graph: padding, layers, cropping, and optional conversion from and to uint8."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from kbnet import __version__
from kbnet.errors import InvalidInputError
from kbnet.export.builder import Builder, float_value, value
from kbnet.export.layers import Layers
from kbnet.export.pooling import PooledInput, WholeInput, Window
from kbnet.export.traced import BASES_AT_ONCE
from kbnet.inference.runners.graphs import GraphFacts
from kbnet.nn import KBBlockL, KBBlockS, KBNetS, Network

PADDING = 8
"""Reflection pads sides to multiples of this, as in the Restorer, before the network's own zero padding."""


_SMALLEST_TILE = 64  # as in the Restorer


def onnx_graph(
    network: Network, facts: GraphFacts, *, at_once: int = BASES_AT_ONCE, optional: bool = True
) -> tuple[onnx.ModelProto, GraphFacts]:
    """Build the network as a graph of standard operators.

    Input `image` and output `restored` are float32 [B,C,H,W] nominally in [0,1], or uint8 [H,W,C]; with any height and
    width, or those of `facts.tile`. With `facts.pooled` there are also the inputs `context` (float32 [K], the averages
    of a whole image), `use_context` (bool [1]) and `halo` (int64 [1], pixels at each side that averages leave out), and
    the output `pooled` (float32 [K], the averages used: the given ones, or those of the batch, which then holds crops
    of one image).

    Args:
        network: a network on the CPU that is exactly what its settings describe.
        facts: options of the graph, from `kbnet.export.write.graph_facts`.
        at_once: number of bases that one convolution applies.
        optional: whether the three additional inputs have defaults; not every runtime supports that.

    Returns:
        The graph, and `facts` completed with the shapes of its averages.

    Raises:
        InvalidInputError: options contradict each other.
    """
    b = Builder()
    levels = network.input_multiple.bit_length() - 1
    multiple = math.lcm(PADDING, network.input_multiple)
    pooling = _pooling(b, facts, multiple, levels)
    layers = Layers(b, pooling, at_once)
    channels = network.config.channels
    size: Sequence[int | str] = [facts.tile or "height", facts.tile or "width"]
    if facts.uint8:
        inputs, outputs = ([value(name, "uint8", [*size, channels])] for name in ("image", "restored"))
        scaled = b.node("Div", b.node("Cast", "image", to=1), b.floats(255, shape=()))
        image = b.node("Unsqueeze", b.node("Transpose", scaled, perm=[2, 0, 1]), b.ints(0))
    else:
        batch = 1 if facts.tile else "batch"
        inputs, outputs = ([float_value(name, [batch, channels, *size])] for name in ("image", "restored"))
        image = "image"
    padded = image if facts.tile else _padded(b, image, multiple)
    pooling.begin(padded)
    defaults: dict[str, NDArray[Any]] = {}
    result = _s(layers, network, padded) if isinstance(network, KBNetS) else _l(layers, network, padded)
    if not facts.tile:
        height, width = b.lengths(image)
        ends = b.node("Concat", height, width, axis=0)
        result = b.node("Slice", result, b.ints(0, 0), ends, b.ints(2, 3))
    if facts.uint8:
        result = b.node("Transpose", b.node("Squeeze", result, b.ints(0)), perm=[1, 2, 0])
        clipped = b.node("Clip", result, b.floats(0, shape=()), b.floats(1, shape=()))
        # Round rounds half to even, as the Restorer does.
        b.nodes.append(onnx.helper.make_node("Cast", [_rounded(b, clipped)], ["restored"], to=2))
    else:
        b.nodes.append(onnx.helper.make_node("Identity", [result], ["restored"]))
    if isinstance(pooling, PooledInput):
        b.nodes.append(onnx.helper.make_node("Concat", pooling.used, ["pooled"], axis=0))
        facts = replace(facts, sites=tuple(pooling.shapes))
        inputs += [
            float_value("context", [facts.values]),
            value("use_context", "bool", [1]),
            value("halo", "int64", [1]),
        ]
        outputs.append(float_value("pooled", [facts.values]))
        if optional:
            defaults = {
                "context": np.zeros(facts.values, np.float32),
                "use_context": np.zeros(1, np.bool_),
                "halo": np.zeros(1, np.int64),
            }
    return b.model(inputs, outputs, facts.to_strings(), __version__, defaults), facts


def _rounded(b: Builder, clipped: str) -> str:
    return b.node("Round", b.node("Mul", clipped, b.floats(255, shape=())))


def _pooling(b: Builder, facts: GraphFacts, multiple: int, levels: int) -> WholeInput:
    if facts.tile and (facts.tile % multiple or facts.tile < _SMALLEST_TILE):
        raise InvalidInputError(
            f"expected a tile size that is a multiple of {multiple} and at least {_SMALLEST_TILE}, got {facts.tile}"
        )
    if facts.pooled and facts.window:
        raise InvalidInputError("a local context (--window) can't be shared; use --context together with --window 0")
    if facts.pooled and (facts.uint8 or facts.tile):
        raise InvalidInputError(
            "a shared context needs float tiles of any size; use --context without --uint8 and --tile"
        )
    if facts.pooled:
        return PooledInput(b)
    return Window(b, facts.window, multiple, levels) if facts.window else WholeInput(b)


def _padded(b: Builder, image: str, multiple: int) -> str:
    """Add reflection padding to multiples of 8, for images of any size, then zero padding to the network's multiple."""
    for axis, length in zip((2, 3), b.lengths(image), strict=True):
        index = b.indices(_up(b, length, PADDING))
        last = b.node("Sub", length, b.ints(1))
        period = b.node("Max", b.node("Mul", last, b.ints(2)), b.ints(1))
        index = b.node("Mod", index, period)
        image = b.node("Gather", image, b.node("Min", index, b.node("Sub", period, index)), axis=axis)
    if multiple == PADDING:
        return image
    ends = [b.node("Sub", _up(b, length, multiple), length) for length in b.lengths(image)]
    return b.node("Pad", image, b.node("Concat", b.ints(0, 0, 0, 0, 0, 0), *ends, axis=0), mode="constant")


def _up(b: Builder, length: str, multiple: int) -> str:
    parts = b.node("Div", b.node("Add", length, b.ints(multiple - 1)), b.ints(multiple))
    return b.node("Mul", parts, b.ints(multiple))


def _stage(layers: Layers, stage: nn.Module, x: str, level: int, name: str) -> str:
    assert isinstance(stage, nn.ModuleList)
    for number, block in enumerate(stage):
        if isinstance(block, KBBlockS):
            x = layers.block_s(x, block, level, f"{name}.{number}")
        else:
            assert isinstance(block, KBBlockL)
            x = layers.block_l(x, block, level, f"{name}.{number}")
    return x


def _s(layers: Layers, network: KBNetS, image: str) -> str:
    """Add `KBNetS.forward` for a padded image."""
    levels = len(network.encoder)
    x = layers.convolution(image, network.first, "first")
    skips = []
    for level, (stage, down) in enumerate(zip(network.encoder, network.downsample, strict=True)):
        assert isinstance(down, nn.Conv2d)
        x = _stage(layers, stage, x, level, f"encoder.{level}")
        skips.append(x)
        x = layers.convolution(x, down, f"downsample.{level}")
    x = _stage(layers, network.middle, x, levels, "middle")
    for number, (stage, up) in enumerate(zip(network.decoder, network.upsample, strict=True)):
        assert isinstance(up, nn.Sequential)
        x = layers.b.node("Add", layers.sequence(x, up, f"upsample.{number}"), skips.pop())
        x = _stage(layers, stage, x, levels - 1 - number, f"decoder.{number}")
    return layers.b.node("Add", layers.convolution(x, network.last, "last"), image)


def _l(layers: Layers, network: Network, image: str) -> str:
    """Add `KBNetL.forward`."""
    assert not isinstance(network, KBNetS)
    levels = len(network.encoder)
    x = layers.convolution(image, network.first, "first")
    skips = []
    for level, (stage, down) in enumerate(zip(network.encoder, network.downsample, strict=True)):
        assert isinstance(down, nn.Sequential)
        x = _stage(layers, stage, x, level, f"encoder.{level}")
        skips.append(x)
        x = layers.sequence(x, down, f"downsample.{level}")
    x = _stage(layers, network.middle, x, levels, "middle")
    for number, (stage, up) in enumerate(zip(network.decoder, network.upsample, strict=True)):
        assert isinstance(up, nn.Sequential)
        x = layers.b.node("Concat", layers.sequence(x, up, f"upsample.{number}"), skips.pop(), axis=1)
        if number < len(network.reduce):
            reduce = network.reduce[number]
            assert isinstance(reduce, nn.Conv2d)
            x = layers.convolution(x, reduce, f"reduce.{number}")
        x = _stage(layers, stage, x, levels - 1 - number, f"decoder.{number}")
    x = _stage(layers, network.refinement, x, 0, "refinement")
    return layers.b.node("Add", layers.convolution(x, network.last, "last"), image)
