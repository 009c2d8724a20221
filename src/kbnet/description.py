"""The structure of KBNet's blocks as plain data: each layer's path, type, settings and parameters.

This is the single source for a block's internals: whether compiled kernels can stand in for live modules, or these
be exported (`kbnet.nn.conformity`), in which order the kernels take its parameters, and what it costs. Types are given
by name, so that this module doesn't import torch.

Example:
    >>> from kbnet.description import BlockS, describe
    >>> described = describe(BlockS(channels=16, coefficient_width=16, bases=8))
    >>> described["adaptive_in.1"].parameters["weight"]
    (16, 1, 3, 3)
    >>> described.fusion["kba_scale"], described.fusion["static_in_bias"]
    ('kba_scale', 'static_branch.0.bias')
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from kbnet.errors import InvalidInputError

Shape = tuple[int, ...]

FUSION = (
    *("norm_weight", "norm_bias", "mix", "mix_bias"),
    *("static_in", "static_in_bias", "static_conv", "static_conv_bias"),
    *("adaptive_in", "adaptive_in_bias", "adaptive_conv", "adaptive_conv_bias"),
    *("head_conv", "head_conv_bias", "expand", "expand_bias", "projection", "projection_bias", "coefficient_scale"),
    *("bases", "bases_bias", "kba_scale", "out", "out_bias", "out_scale"),
)
"""Roles of the parameters in the fusion half of a block, in the order of FusionParameter in csrc/problem.h."""

FEED_FORWARD = ("norm_weight", "norm_bias", "in", "in_bias", "out", "out_bias", "out_scale")
"""Roles of the parameters in the feed-forward half of KBNet-S's block, in the order of FeedForwardTrainingCall."""

PRODUCTS = (
    *("static_in", "static_conv", "adaptive_in", "adaptive_conv", "head_conv", "expand", "projection"),
    *("in", "out"),
)
"""Roles of weights that are multiplied once per pixel: convolutions of stride 1. (`mix` runs once per image.)"""


def coefficient_width(channels: int, limit: int) -> int:
    """Return the hidden width of the coefficient head: the largest even divisor of `channels` up to `limit`.

    At the authors' widths this equals their rule, min(channels, limit), where limit is 32 in KBNet-S and 24 in KBNet-L.

    Raises:
        InvalidInputError: `channels` is odd.
    """
    for width in range(min(channels, limit), 1, -1):
        if channels % width == 0 and width % 2 == 0:
            return width
    raise InvalidInputError(f"expected an even number of channels, got {channels}")


def kba_multiply_adds(channels: int, bases: int, group_channels: int, kernel_size: int) -> int:
    """Return the multiply-adds per pixel of kernel basis attention: mixing (or N convolutions), applying, and bias."""
    taps = channels * group_channels * kernel_size**2
    return bases * taps + taps + bases * channels


@dataclass(frozen=True)
class BlockS:
    """Settings of KBNet-S's block: the arguments of `kbnet.nn.KBBlockS`."""

    channels: int
    coefficient_width: int
    bases: int = 32
    group_channels: int = 4
    kernel_size: int = 3
    ffn_scale: float = 2.0
    lightweight: bool = False


@dataclass(frozen=True)
class BlockL:
    """Settings of KBNet-L's block: the arguments of `kbnet.nn.KBBlockL`."""

    channels: int
    heads: int
    coefficient_width: int
    bases: int = 32
    group_channels: int = 2
    kernel_size: int = 3
    expansion: float = 1.5
    bias: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """One module in the state that its constructor creates.

    Attributes:
        path: dotted path from the block or network; empty for the block or network itself.
        kind: name of its exact type in `torch.nn` or `kbnet.nn`.
        half: part of the block that it belongs to: "fusion", "feed_forward" or "attention"; empty for the block itself.
        parameters: shapes of its own parameters in registration order; None for an absent one, such as a bias.
        children: names of its submodules in registration order.
        settings: attribute values by name.
    """

    path: str
    kind: str
    half: str = ""
    parameters: Mapping[str, Shape | None] = field(default_factory=dict)
    children: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """Return the shape of a parameter; raises KeyError if it is absent."""
        shape = self.parameters[name]
        if shape is None:
            raise KeyError(name)
        return shape

    def below(self, path: str) -> "Layer":
        """Return the same layer with `path` as a prefix of its own path."""
        joined = f"{path}.{self.path}".strip(".")
        return Layer(joined, self.kind, self.half, self.parameters, self.children, self.settings)

    def multiply_adds(self) -> int:
        """Return the multiply-adds with its weights for one output pixel (`kba_multiply_adds` for the operator)."""
        if self.kind == "Conv2d":
            return math.prod(self.shape("weight"))
        if self.kind == "KernelBasisAttention":
            bases, channels, _ = self.shape("weight")
            group_channels, kernel_size, _ = self.settings["taps"]
            return kba_multiply_adds(channels, bases, group_channels, kernel_size)
        return 0


@dataclass(frozen=True, eq=False)
class Description:
    """The structure of a block.

    Attributes:
        layers: all layers in registration order, starting with the block itself.
        fusion: path of the parameter for each role in `FUSION`; None if the block has no such parameter.
        feed_forward: the same for the roles in `FEED_FORWARD`; empty for KBNet-L.
    """

    layers: tuple[Layer, ...]
    fusion: Mapping[str, str | None]
    feed_forward: Mapping[str, str | None]

    def __getitem__(self, path: str) -> Layer:
        return next(layer for layer in self.layers if layer.path == path)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def layer_of(self, role: str) -> Layer:
        """Return the layer that owns the parameter with this role in the fusion half."""
        return self[(self.fusion[role] or "").rpartition(".")[0]]

    def names(self) -> list[str]:
        """Return the paths of all parameters in registration order."""
        return [
            f"{layer.path}.{name}".strip(".")
            for layer in self.layers
            for name, shape in layer.parameters.items()
            if shape is not None
        ]


@cache
def describe(settings: BlockS | BlockL) -> Description:
    """Return the description of the block with these settings."""
    return _block_s(settings) if isinstance(settings, BlockS) else _block_l(settings)


def convolution(
    path: str, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, bias: bool = True, stride: int = 1
) -> Layer:
    """Describe a `torch.nn.Conv2d` with a square kernel, zero-padded to keep the input's size unless it strides."""
    padding = kernel // 2 if stride == 1 else 0
    return Layer(
        path,
        "Conv2d",
        parameters={
            "weight": (outputs, inputs // groups, kernel, kernel),
            "bias": (outputs,) if bias else None,
        },
        settings={
            "in_channels": inputs,
            "out_channels": outputs,
            "kernel_size": (kernel, kernel),
            "stride": (stride, stride),
            "padding": (padding, padding),
            "dilation": (1, 1),
            "groups": groups,
            "padding_mode": "zeros",
            "transposed": False,
            "output_padding": (0, 0),
        },
    )


def multiply_adds(roles: Sequence[str], shapes: Sequence[Shape | None]) -> int:
    """Return the multiply-adds per pixel of the convolutions among `roles`. `shapes` are in the order of `roles`."""
    return sum(math.prod(shape) for role, shape in zip(roles, shapes, strict=True) if role in PRODUCTS and shape)


def _norm(path: str, channels: int) -> Layer:
    parameters = {"weight": (channels,), "bias": (channels,)}
    return Layer(path, "LayerNorm2d", parameters=parameters, settings={"eps": 1e-6})


def _sequence(path: str, *layers: Layer) -> list[Layer]:
    inside = [layer.below(f"{path}.{number}") for number, layer in enumerate(layers)]
    return [Layer(path, "Sequential", children=tuple(str(number) for number in range(len(layers)))), *inside]


def _branches(settings: BlockS | BlockL, hidden: int, static: Sequence[Layer], bias: bool) -> list[Layer]:
    """Return the three fusion branches: channel, static, and adaptive with its coefficients and bases."""
    c, n, head = settings.channels, settings.bases, settings.coefficient_width
    taps = (settings.group_channels, settings.kernel_size, settings.kernel_size)
    return [
        Layer("channel_branch", "ChannelBranch", children=("mix",)),
        convolution("channel_branch.mix", c, hidden),
        *_sequence("static_branch", *static),
        *_sequence(
            "adaptive_in",
            convolution("", c, hidden, bias=bias),
            convolution("", hidden, hidden, 3, groups=hidden, bias=bias),
        ),
        Layer(
            "coefficients",
            "CoefficientHead",
            parameters={"scale": (1, n, 1, 1)},
            children=("grouped", "gate", "expand", "projection"),
        ),
        convolution("coefficients.grouped", c, head, 3, groups=head),
        Layer("coefficients.gate", "SimpleGate"),
        convolution("coefficients.expand", head // 2, n),
        convolution("coefficients.projection", c, n),
        Layer(
            "kba",
            "KernelBasisAttention",
            parameters={"weight": (n, hidden, math.prod(taps)), "bias": (n, hidden)},
            settings={"taps": taps},
        ),
    ]


def _block_s(settings: BlockS) -> Description:
    c, hidden = settings.channels, int(settings.ffn_scale * settings.channels)
    groups, kernel = (c, 3) if settings.lightweight else (c // 4, 5)
    static = (convolution("", c, c), convolution("", c, c, kernel, groups=groups))
    fusion = [
        _norm("fusion_norm", c),
        *_branches(settings, c, static, bias=True),
        convolution("fusion_out", c, c),
    ]
    feed_forward = [
        _norm("ffn_norm", c),
        convolution("ffn_in", c, hidden),
        Layer("gate", "SimpleGate"),
        convolution("ffn_out", hidden // 2, c),
    ]
    scales = dict.fromkeys(("kba_scale", "fusion_scale", "ffn_scale"), (1, c, 1, 1))
    layers = _halves(fusion=fusion, feed_forward=feed_forward)
    itself = Layer("", "KBBlockS", parameters=scales, children=_children(layers))
    places = {"norm": "fusion_norm", "out": "fusion_out", "kba_scale": "kba_scale", "out_scale": "fusion_scale"}
    ffn = {"norm": "ffn_norm", "in": "ffn_in", "out": "ffn_out", "out_scale": "ffn_scale"}
    return _described([itself, *layers], places, "", ffn)


def _block_l(settings: BlockL) -> Description:
    c, hidden, bias = settings.channels, int(settings.channels * settings.expansion), settings.bias
    static = (convolution("", c, hidden, bias=bias), convolution("", hidden, hidden, 3, groups=hidden, bias=bias))
    inside = [
        *_branches(settings, hidden, static, bias),
        convolution("out", hidden, c, bias=bias),
    ]
    scales = {"kba_scale": (1, hidden, 1, 1)}
    fusion = Layer("fusion", "MultiAxisFusion", parameters=scales, children=_children(inside))
    attention = [
        _norm("attention_norm", c),
        Layer(
            "attention",
            "TransposedAttention",
            parameters={"temperature": (settings.heads, 1, 1)},
            children=("qkv", "qkv_depthwise", "out"),
            settings={"heads": settings.heads},
        ),
        convolution("attention.qkv", c, 3 * c, bias=bias),
        convolution("attention.qkv_depthwise", 3 * c, 3 * c, 3, groups=3 * c, bias=bias),
        convolution("attention.out", c, c, bias=bias),
    ]
    whole = [_norm("fusion_norm", c), fusion, *(layer.below("fusion") for layer in inside)]
    layers = _halves(fusion=whole, attention=attention)
    itself = Layer("", "KBBlockL", children=_children(layers))
    places = {"norm": "fusion_norm", "out": "fusion.out", "kba_scale": "fusion.kba_scale"}
    return _described([itself, *layers], places, "fusion.", {})


def _halves(**halves: Iterable[Layer]) -> list[Layer]:
    return [
        Layer(layer.path, layer.kind, half, layer.parameters, layer.children, layer.settings)
        for half, layers in halves.items()
        for layer in layers
    ]


def _children(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Return the names of the direct children among these layers."""
    return tuple(layer.path for layer in layers if "." not in layer.path)


def _described(layers: list[Layer], places: dict[str, str], prefix: str, feed_forward: dict[str, str]) -> Description:
    inside = {
        "mix": "channel_branch.mix",
        "static_in": "static_branch.0",
        "static_conv": "static_branch.1",
        "adaptive_in": "adaptive_in.0",
        "adaptive_conv": "adaptive_in.1",
        "head_conv": "coefficients.grouped",
        "expand": "coefficients.expand",
        "projection": "coefficients.projection",
        "coefficient_scale": "coefficients.scale",
        "bases": "kba",
    }
    fusion = {role: prefix + path for role, path in inside.items()} | places
    present = {
        f"{layer.path}.{name}".strip(".")
        for layer in layers
        for name, shape in layer.parameters.items()
        if shape is not None
    }

    def paths(roles: Sequence[str], places: dict[str, str]) -> Mapping[str, str | None]:
        """Resolve roles to paths. A place is a module, whose weight and bias each have a role, or a parameter."""
        found: dict[str, str | None] = {}
        for role in roles:
            place = places.get(role.removesuffix("_weight").removesuffix("_bias"), "")
            path = place if place in present else f"{place}.{'bias' if role.endswith('_bias') else 'weight'}"
            found[role] = path if path in present else None
        return MappingProxyType(found)

    half = paths(FEED_FORWARD, feed_forward) if feed_forward else MappingProxyType({})
    return Description(tuple(layers), paths(FUSION, fusion), half)
