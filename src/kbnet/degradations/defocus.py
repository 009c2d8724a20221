"""Defocus: round and polygonal apertures, radii from a depth-like map, and layers that keep sharp edges sharp."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, quantise, ranged, share
from kbnet.degradations.blur import layered_blur, to_linear, to_srgb, varying_blur
from kbnet.degradations.kernels import disk_kernel, polygon_kernel
from kbnet.degradations.randomness import chance, integer, log_uniform, smooth_field, uniform
from kbnet.errors import InvalidInputError

_STEP = 1.5  # largest difference in radius between adjacent kernels of a stack, in pixels

Aperture = tuple[int, float]
"""Number of blades (0 = round) and rotation in radians."""


def aperture_kernel(radius: float, aperture: Aperture = (0, 0.0)) -> Tensor:
    """Return the kernel [k,k] of an aperture. `radius` in pixels is that of a disk with the same area."""
    blades, rotation = aperture
    return polygon_kernel(radius, blades, rotation) if blades else disk_kernel(radius)


def radius_stack(radii: Tensor, aperture: Aperture = (0, 0.0)) -> tuple[Tensor, Tensor]:
    """Return kernels and weights for `varying_blur` that blur each pixel with its own radius.

    Adjacent kernels differ in radius by at most 1.5 pixels; radii in between use mixtures of two kernels.

    Args:
        radii: [H,W] in pixels, not negative.
        aperture: blades and rotation.

    Raises:
        InvalidInputError: a radius is negative or not finite.
    """
    low, high = (float(end) for end in radii.aminmax())
    if not (0 <= low <= high < math.inf):
        raise InvalidInputError(f"expected radii of at least 0 pixels, got {low:g} to {high:g}")
    count = math.ceil((high - low) / _STEP) + 1
    levels = torch.linspace(low, high, count)
    kernels = _stacked([aperture_kernel(level, aperture) for level in levels.tolist()])
    if count == 1:
        return kernels, torch.ones(1, *radii.shape)
    position = (radii - low) * ((count - 1) / (high - low))
    return kernels, (1 - (position - torch.arange(count)[:, None, None]).abs()).clamp_min(0)


def defocus(
    image: Tensor,
    radii: Tensor,
    foreground: Tensor | None = None,
    foreground_radii: Tensor | None = None,
    aperture: Aperture = (0, 0.0),
) -> Tensor:
    """Blur an image with a radius for each pixel, optionally with a near layer in front.

    Args:
        image: [C,H,W] in linear light.
        radii: [H,W], radii in pixels of the whole image or, with a near layer, of the layer behind.
        foreground: opacity of the near layer, [H,W] in [0,1]. See `layered_blur` for the effect at its edge.
        foreground_radii: [H,W], radii in pixels of the near layer.
        aperture: blades and rotation.
    """
    if foreground is None or foreground_radii is None:
        return varying_blur(image, *radius_stack(radii, aperture))
    return layered_blur(image, foreground, radius_stack(radii, aperture), radius_stack(foreground_radii, aperture))


def object_mask(image: Tensor, scale: float, generator: Generator) -> Tensor:
    """Return a random opacity [H,W] with one-pixel edges, which partly follow those of the image as real depth does.

    It is a smooth field plus the image's brightness, thresholded at a random quantile from 0.2 to 0.8.
    """
    height, width = image.shape[1:]
    field = smooth_field(height, width, scale, generator) + 0.5 * image.mean(0)
    level = torch.quantile(field.flatten()[:: max(1, field.numel() // 4096)], uniform((0.2, 0.8), generator))
    return ((field - level) * (scale / 2) + 0.5).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class Defocus(Degradation):
    """Blur of a defocused lens (Potmesil & Chakravarty 1981), as photographed in DPDD (arXiv 2005.00305).

    Blurs in linear light with a disk or, with aperture blades, a polygon. Parts in focus stay sharp.

    Fields:
        radius: radius of the blur disk in pixels.
        polygon_share: share of calls with straight blades instead of a round aperture.
        blades: number of blades.
        varying_share: share of calls in which the radius follows a smooth map between two radii of that range.
        scale: pixels over which such a map and the outlines of near layers change, log-uniform.
        layer_share: share of calls with a near layer of another radius, with sharp edges between the layers.
        highlight_gain: light of clipped areas (white in the photo) before the blur, relative to white. Real highlights
            are brighter than white and form bright disks.
    """

    radius: Range = ranged(0, 6, within=(0, 60))
    polygon_share: float = share(0.4)
    blades: Range = ranged(5, 8, within=(3, 16), whole=True)
    varying_share: float = share(0.5)
    scale: Range = ranged(32, 256, within=(2, 4096))
    layer_share: float = share(0.3)
    highlight_gain: Range = ranged(1, 2, within=(1, 20))

    @property
    def margin(self) -> int:
        # the corners of a triangle are 1.56 radii from its middle, those of a pentagon 1.15
        blades = self.blades[0] if self.polygon_share else math.inf
        sector = 2 * math.pi / blades
        return math.ceil(self.radius[1] * (math.sqrt(sector / math.sin(sector)) if sector else 1))

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        height, width = clean.shape[1:]
        blades = integer(self.blades, generator) if chance(self.polygon_share, generator) else 0
        aperture = (blades, uniform((0, 2 * math.pi), generator))
        layers: list[Tensor] = []
        scale = log_uniform(self.scale, generator)
        for _ in range(2):
            low = high = uniform(self.radius, generator)
            if chance(self.varying_share, generator):
                other = uniform(self.radius, generator)
                low, high = min(low, other), max(low, other)
            layers.append(low + (high - low) * smooth_field(height, width, scale, generator))
        mask = object_mask(clean, scale, generator) if chance(self.layer_share, generator) else None
        light = lit(clean, uniform(self.highlight_gain, generator))
        blurred = defocus(light, layers[0], mask, layers[1], aperture)
        return quantise(to_srgb(blurred.clamp_(0, 1)))


def lit(image: Tensor, highlight_gain: float) -> Tensor:
    """Convert sRGB values to linear light. Nearly white values are raised up to `highlight_gain` instead of 1."""
    light = to_linear(image)
    if highlight_gain == 1:
        return light
    bright = image.amin(0, keepdim=True).sub(0.95).mul_(20).clamp_(0, 1)
    return light * (1 + (highlight_gain - 1) * bright)


def _stacked(kernels: list[Tensor]) -> Tensor:
    side = max(kernel.shape[0] for kernel in kernels)
    return torch.stack([torch.nn.functional.pad(k, [(side - k.shape[0]) // 2] * 4) for k in kernels])
