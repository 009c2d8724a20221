"""Rain: layers of streaks, and the mist of drops too distant to be resolved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, check_fields, quantise, ranged, share
from kbnet.degradations.blur import fast_length
from kbnet.degradations.jpeg import random_jpeg
from kbnet.degradations.kernels import MAX_KERNEL_SIDE
from kbnet.degradations.randomness import chance, log_uniform, normal, smooth_field, uniform
from kbnet.errors import InvalidInputError

MAX_STREAK = 120.0
"""Length of the longest streak, in pixels."""

_SPREAD = 3  # groups of streaks per layer, with different directions and lengths, since drops don't fall alike
_TAPER = 0.35  # share of a soft streak over which each of its ends fades


def streak_kernel(length: float, width: float, angle: float, *, soft: bool = True) -> Tensor:
    """Return the trace of one drop: a line [k,k] with values in [0,1], about 1 in its middle.

    Args:
        length: length in pixels.
        width: full width at half maximum in pixels. Below one pixel, the line gets fainter instead of thinner.
        angle: angle from the vertical in radians. With a positive angle, the bottom is to the right.
        soft: whether the ends fade.

    Raises:
        InvalidInputError: `length` or `width` isn't positive, or exceeds `MAX_STREAK`.
    """
    if not (0 < length <= MAX_STREAK and 0 < width <= MAX_STREAK):
        raise InvalidInputError(f"expected a streak of at most {MAX_STREAK:g} pixels, got {length:g} by {width:g}")
    half = min(math.ceil(length / 2 + width), MAX_KERNEL_SIDE // 2)
    position = torch.arange(-half, half + 1).float()
    down, across = position[:, None], position
    along = (down * math.cos(angle) + across * math.sin(angle)).abs()
    aside = across * math.cos(angle) - down * math.sin(angle)
    shown = max(width, 1.0)
    profile = torch.exp(-4 * math.log(2) * (aside / shown).square()) * (width / shown)
    fade = max(_TAPER * length if soft else 1.0, 1.0)
    return profile * ((length / 2 - along) / fade + 0.5).clamp(0, 1)


def streak_layer(
    height: int, width: int, kernels: Sequence[Tensor], cover: float, generator: Generator, contrast: float = 0.5
) -> Tensor:
    """Return streaks at random positions, [H,W] with values from 0 to about the number of overlapping streaks.

    Drops can be anywhere, including between pixels and outside the image. Each has a brightness from 1 - contrast to 1.
    Blurred impulses are the usual model of rain (Garg & Nayar, "Photorealistic rendering of rain streaks", 2006, with
    measured streaks; Yang et al., arXiv 1609.07769, with motion-blurred noise).

    Args:
        height, width: size of the image in pixels.
        kernels: kernels from `streak_kernel`; each drop gets one of them.
        cover: mean number of streaks over a pixel.
        generator: source of all random numbers.
        contrast: variation of the brightness, 0 to 1.
    """
    border = max(kernel.shape[0] for kernel in kernels) // 2
    rows, columns = height + 2 * border, width + 2 * border
    size = (fast_length(rows), fast_length(columns))
    spectrum: Tensor = torch.zeros(())
    for kernel in kernels:
        expected = cover / len(kernels) / float(kernel.sum()) * rows * columns
        count = max(0, round(expected + math.sqrt(expected) * normal(generator)))
        drops = _drops(rows, columns, count, contrast, generator)
        spectrum = spectrum + torch.fft.rfft2(drops, s=size) * torch.fft.rfft2(_padded(kernel, border), s=size)
    whole: Tensor = torch.fft.irfft2(spectrum, s=size)
    # wrapped-around parts of the transform are outside this crop
    return whole[2 * border : 2 * border + height, 2 * border : 2 * border + width].clamp_min(0)


def _drops(rows: int, columns: int, count: int, contrast: float, generator: Generator) -> Tensor:
    """Return impulses [rows,columns] at random positions, each distributed over the four nearest pixels."""
    numbers = torch.rand(3, count, generator=generator)
    down, across = numbers[0] * (rows - 1), numbers[1] * (columns - 1)
    top, left = down.long().clamp_max(max(rows - 2, 0)), across.long().clamp_max(max(columns - 2, 0))
    below, beside = down - top, across - left
    brightness = 1 - contrast * numbers[2]
    low, high = brightness * below, brightness * (1 - below)
    index = top * columns + left
    places = torch.cat([index, index + 1, index + columns, index + columns + 1]).clamp_max_(rows * columns - 1)
    values = torch.cat([high * (1 - beside), high * beside, low * (1 - beside), low * beside])
    return torch.zeros(rows * columns).index_add_(0, places, values).view(rows, columns)


def _padded(kernel: Tensor, border: int) -> Tensor:
    return torch.nn.functional.pad(kernel, [border - kernel.shape[0] // 2] * 4)


def add_rain(image: Tensor, streaks: Tensor, *, screen: bool = False) -> Tensor:
    """Add streaks of light to an image, either by clipped addition or with the "screen" blend mode.

    Rain100L and Rain100H use addition (arXiv 1609.07769, equation 1); much of Rain13K uses "screen".

    Args:
        image: [C,H,W] in [0,1].
        streaks: [H,W], not negative.
        screen: whether to use the "screen" blend mode.

    Returns:
        [C,H,W] in [0,1], nowhere darker than `image`.
    """
    light = streaks.clamp(0, 1)
    return image + (1 - image) * light if screen else (image + light).clamp(max=1)


def add_veil(image: Tensor, veil: Tensor, airlight: float) -> Tensor:
    """Add mist in front of an image: pixels darker than the airlight get brighter (arXiv 1609.07769, equation 6).

    Args:
        image: [C,H,W] in [0,1].
        veil: opacity [H,W] in [0,1].
        airlight: brightness of the mist, in [0,1].
    """
    return image + veil * (airlight - image).clamp_min(0)


@dataclass(frozen=True, kw_only=True)
class RainLook:
    """One kind of rain. Its fields are ranges from which each image, or each layer of an image, draws.

    Fields:
        layers: number of layers, each with its own direction, length, width and density.
        angle: main angle of all layers, degrees from the vertical to either side. angle_spread: deviation of a layer.
        length: length of streaks in pixels, log-uniform. width: width in pixels, log-uniform.
        cover: mean number of streaks over a pixel in all layers together, log-uniform.
        brightness: brightness of streaks; white is 1.
        contrast: variation of brightness among the drops of a layer.
        soft_share: share of layers whose streaks fade at their ends.
        screen_share: share of images that use the "screen" blend mode instead of addition.
        veil_share: share of images with mist; veil: its opacity.
    """

    layers: Range = ranged(1, 3, within=(1, 8), whole=True)
    angle: Range = ranged(0, 30, within=(0, 90))
    angle_spread: Range = ranged(0, 10, within=(0, 90))
    length: Range = ranged(10, 60, within=(1, MAX_STREAK))
    width: Range = ranged(0.8, 2.5, within=(0.1, 20))
    cover: Range = ranged(0.05, 0.4, within=(1e-4, 20))
    brightness: Range = ranged(0.2, 0.6, within=(0, 2))
    contrast: Range = ranged(0.3, 0.9, within=(0, 1))
    soft_share: float = share(0.6)
    screen_share: float = share(0.3)
    veil_share: float = share(0.1)
    veil: Range = ranged(0, 0.3, within=(0, 1))

    def __post_init__(self) -> None:
        check_fields(self)


LIGHT = RainLook(
    layers=(1, 1),
    angle_spread=(0, 0),
    length=(10, 60),
    width=(0.7, 4.0),
    cover=(0.03, 0.35),
    brightness=(0.2, 1.0),
    screen_share=0.1,
    veil_share=0.0,
)
"""As in Rain100L: few streaks in one direction, from faint ones to thick white ones."""

HEAVY = RainLook(
    layers=(1, 4),
    angle_spread=(0, 18),
    length=(20, 100),
    width=(0.7, 2.4),
    cover=(0.3, 2.0),
    brightness=(0.25, 0.75),
    soft_share=0.4,
    screen_share=0.1,
    veil_share=0.1,
)
"""As in Rain100H: dense and bright streaks, often in several directions."""

SHORT = RainLook(
    layers=(1, 3),
    angle=(0, 45),
    length=(5, 25),
    width=(0.8, 3.5),
    cover=(0.1, 1.0),
    brightness=(0.15, 0.8),
    screen_share=0.8,
    veil_share=0.3,
)
"""As in much of Rain13K: short specks, screened."""


@dataclass(frozen=True, kw_only=True)
class Rain(Degradation):
    """Rain on photos, with several looks (Yang et al., "Deep joint rain detection and removal", arXiv 1609.07769).

    Fields:
        light_share, heavy_share, short_share: relative frequencies of the looks LIGHT, HEAVY and SHORT.
        severity: factor applied to the cover and the brightness of streaks; 0 means no rain.
        jpeg_share: share of calls that end with JPEG compression, as in much of Rain13K; jpeg_quality: its quality.
    """

    light_share: float = share(0.35)
    heavy_share: float = share(0.4)
    short_share: float = share(0.25)
    severity: Range = ranged(1, 1, within=(0, 4))
    jpeg_share: float = share(0.1)
    jpeg_quality: Range = ranged(75, 98, within=(1, 100), whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.light_share + self.heavy_share + self.short_share == 0:
            raise InvalidInputError("expected light_share, heavy_share or short_share above 0, got 0 for all")

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        shares = (self.light_share, self.heavy_share, self.short_share)
        place = uniform((0, sum(shares)), generator)
        look = LIGHT if place < shares[0] else HEAVY if place < shares[0] + shares[1] else SHORT
        severity = uniform(self.severity, generator)
        rainy = random_rain(clean, look, generator, severity=severity)
        if chance(self.jpeg_share, generator):
            return random_jpeg(rainy, self.jpeg_quality, 0.5, generator)
        return quantise(rainy)


def random_rain(image: Tensor, look: RainLook, generator: Generator, *, severity: float = 1.0) -> Tensor:
    """Add rain with a given look to an image [C,H,W] in [0,1]. `severity` is as for `Rain`."""
    height, width = image.shape[1:]
    main = uniform(look.angle, generator) * (1 if chance(0.5, generator) else -1)
    spread = uniform(look.angle_spread, generator)
    layers = int(uniform((look.layers[0], look.layers[1] + 1), generator))
    cover = log_uniform(look.cover, generator) * severity
    brightness = uniform(look.brightness, generator) * severity
    dark = torch.ones(height, width)
    for _ in range(layers):
        angle = main + spread * normal(generator)
        length, thick = log_uniform(look.length, generator), log_uniform(look.width, generator)
        contrast, soft = uniform(look.contrast, generator), chance(look.soft_share, generator)
        bright = brightness * uniform((0.6, 1), generator)
        lengths = [min(length * uniform((0.7, 1.3), generator), MAX_STREAK) for _ in range(_SPREAD)]
        angles = [math.radians(angle + 1.5 * normal(generator)) for _ in range(_SPREAD)]
        kernels = [streak_kernel(one, thick, lean, soft=soft) for one, lean in zip(lengths, angles, strict=True)]
        streaks = streak_layer(height, width, kernels, cover / layers, generator, contrast)
        # streaks of different layers partly occlude each other
        dark *= 1 - (bright * streaks).clamp_(0, 1)
    screen = chance(look.screen_share, generator)
    rainy = add_rain(image, 1 - dark, screen=screen)
    misty, opacity = chance(look.veil_share, generator), uniform(look.veil, generator) * severity
    if misty:
        veil = opacity * (0.5 + 0.5 * smooth_field(height, width, 96, generator))
        rainy = add_veil(rainy, veil.clamp_(0, 1), uniform((0.6, 1), generator))
    return rainy
