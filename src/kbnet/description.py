"""What a block of KBNet is made of, as plain data: every layer's path, type, settings and parameters.

Whatever needs to know a block's insides reads them here: whether a live block may run as one call of the compiled
kernels or be exported (`kbnet.nn.conformity`), in which order kernels take its parameters, what it costs. Types are
named and not imported, so that nothing here needs torch.

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
"""Roles of the parameters of a block's fusion half, in the order of csrc/problem.h, FusionParameter."""

MIXED = FUSION[:2] + FUSION[4:]
"""The same where the channel branch (`mix`) has been computed already, in the order of FusionCall."""

FEED_FORWARD = ("norm_weight", "norm_bias", "in", "in_bias", "out", "out_bias", "out_scale")
"""Roles of the parameters of the feed-forward half of KBNet-S's block, in the order of FeedForwardCall."""

PRODUCTS = (
    *("static_in", "static_conv", "adaptive_in", "adaptive_conv", "head_conv", "expand", "projection"),
    *("in", "out"),
)
"""Roles whose every value is multiplied once a pixel: convolutions of stride 1. (`mix` is, once an image.)"""


def coefficient_width(channels: int, limit: int) -> int:
    """Hidden width of the coefficient head: the largest even divisor of `channels` that is not over `limit`.

    At the authors' widths this is their rule, min(channels, limit), with 32 in KBNet-S and 24 in KBNet-L.

    Raises:
        InvalidInputError: `channels` is odd.
    """
    for width in range(min(channels, limit), 1, -1):
        if channels % width == 0 and width % 2 == 0:
            return width
    raise InvalidInputError(f"expected an even number of channels, got {channels}")


def kba_multiply_adds(channels: int, bases: int, group_channels: int, kernel_size: int) -> int:
    """Multiply-adds a pixel of kernel basis attention: mixing (or N convolutions), applying, and bias."""
    taps = channels * group_channels * kernel_size**2
    return bases * taps + taps + bases * channels


@dataclass(frozen=True)
class BlockS:
    """Settings of KBNet-S's block, as `kbnet.nn.KBBlockS` takes them."""

    channels: int
    coefficient_width: int
    bases: int = 32
    group_channels: int = 4
    kernel_size: int = 3
    ffn_scale: float = 2.0
    lightweight: bool = False


@dataclass(frozen=True)
class BlockL:
    """Settings of KBNet-L's block, as `kbnet.nn.KBBlockL` takes them."""

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
    """One module, as its constructor leaves it.

    Attributes:
        path: dotted, from the block or network; empty for itself.
        kind: name of its exact type, in `torch.nn` or `kbnet.nn`.
        half: "fusion", "feed_forward" or "attention", the part of a block that it belongs to; empty for what is above.
        parameters: shape of each of its own, None for one that is absent (a bias), in order of registration.
        children: names of its modules, in order of registration.
        settings: attributes, by name.
    """

    path: str
    kind: str
    half: str = ""
    parameters: Mapping[str, Shape | None] = field(default_factory=dict)
    children: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """Shape of a parameter that is there."""
        shape = self.parameters[name]
        if shape is None:
            raise KeyError(name)
        return shape

    def below(self, path: str) -> "Layer":
        """The same layer in a module that is at `path` itself."""
        joined = f"{path}.{self.path}".strip(".")
        return Layer(joined, self.kind, self.half, self.parameters, self.children, self.settings)

    def multiply_adds(self) -> int:
        """Multiply-adds with its weights for one output pixel; those of `kba_multiply_adds` for the operator."""
        if self.kind == "Conv2d":
            return math.prod(self.shape("weight"))
        if self.kind == "KernelBasisAttention":
            bases, channels, _ = self.shape("weight")
            group_channels, kernel_size, _ = self.settings["taps"]
            return kba_multiply_adds(channels, bases, group_channels, kernel_size)
        return 0


@dataclass(frozen=True, eq=False)
class Description:
    """A block: its layers in order of registration, itself first, and where the kernels' parameters are.

    Attributes:
        layers: all of them.
        fusion: path of the parameter in each role of `FUSION`, None where there is none.
        feed_forward: the same for `FEED_FORWARD`; empty for KBNet-L.
        gelu: whether the static branch ends in a GELU, which has no module (KBNet-L).
    """

    layers: tuple[Layer, ...]
    fusion: Mapping[str, str | None]
    feed_forward: Mapping[str, str | None]
    gelu: bool

    def __getitem__(self, path: str) -> Layer:
        return next(layer for layer in self.layers if layer.path == path)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def layer_of(self, role: str) -> Layer:
        """The module whose parameter has a role in the fusion half."""
        return self[(self.fusion[role] or "").rpartition(".")[0]]

    def names(self) -> list[str]:
        """Paths of all parameters, in order of registration."""
        return [
            f"{layer.path}.{name}".strip(".")
            for layer in self.layers
            for name, shape in layer.parameters.items()
            if shape is not None
        ]


@cache
def describe(settings: BlockS | BlockL) -> Description:
    """The block with these settings."""
    return _block_s(settings) if isinstance(settings, BlockS) else _block_l(settings)


def convolution(
    path: str, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1, bias: bool = True, stride: int = 1
) -> Layer:
    """`torch.nn.Conv2d` of a square kernel, padded with zeros to the size of its input unless it strides."""
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
    """Multiply-adds a pixel of the convolutions among a half's parameters; shapes in the order of roles."""
    return sum(math.prod(shape) for role, shape in zip(roles, shapes, strict=True) if role in PRODUCTS and shape)


def _norm(path: str, channels: int) -> Layer:
    parameters = {"weight": (channels,), "bias": (channels,)}
    return Layer(path, "LayerNorm2d", parameters=parameters, settings={"eps": 1e-6})


def _sequence(path: str, *layers: Layer) -> list[Layer]:
    inside = [layer.below(f"{path}.{number}") for number, layer in enumerate(layers)]
    return [Layer(path, "Sequential", children=tuple(str(number) for number in range(len(layers)))), *inside]


def _branches(settings: BlockS | BlockL, hidden: int, static: Sequence[Layer], bias: bool) -> list[Layer]:
    """The three branches of the fusion: channel, static, and adaptive with its coefficients and bases."""
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
    return _described([itself, *layers], places, "", ffn, gelu=False)


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
    return _described([itself, *layers], places, "fusion.", {}, gelu=True)


def _halves(**halves: Iterable[Layer]) -> list[Layer]:
    return [
        Layer(layer.path, layer.kind, half, layer.parameters, layer.children, layer.settings)
        for half, layers in halves.items()
        for layer in layers
    ]


def _children(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Names of those that lie directly below the module whose layers these are."""
    return tuple(layer.path for layer in layers if "." not in layer.path)


def _described(
    layers: list[Layer], places: dict[str, str], prefix: str, feed_forward: dict[str, str], *, gelu: bool
) -> Description:
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
        """A place is a module, whose weight and bias have a role each, or a parameter itself."""
        found: dict[str, str | None] = {}
        for role in roles:
            place = places.get(role.removesuffix("_weight").removesuffix("_bias"), "")
            path = place if place in present else f"{place}.{'bias' if role.endswith('_bias') else 'weight'}"
            found[role] = path if path in present else None
        return MappingProxyType(found)

    half = paths(FEED_FORWARD, feed_forward) if feed_forward else MappingProxyType({})
    return Description(tuple(layers), paths(FUSION, fusion), half, gelu)
