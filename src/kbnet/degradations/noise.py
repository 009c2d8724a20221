"""Gaussian noise as in the papers, with one sigma per image or per pixel."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, ranged, share
from kbnet.degradations.randomness import chance, log_uniform, smooth_field, uniform
from kbnet.errors import InvalidInputError


def gaussian_noise(clean: Tensor, sigma: Tensor | float, generator: Generator | None = None) -> Tensor:
    """Add white Gaussian noise, neither clipped nor quantized (KBNet, arXiv 2303.02881, section 4.2).

    Args:
        clean: images [B,C,H,W], nominally in [0,1].
        sigma: standard deviation on the scale of 0 to 255: a number, one per image [B], or one per pixel [B,1,H,W].
        generator: source of the noise; None for torch's default generator.

    Returns:
        [B,C,H,W] in the dtype of `clean`. Values can be outside [0,1].

    Raises:
        InvalidInputError: `sigma` has another shape.

    Example:
        >>> gaussian_noise(torch.zeros(1, 3, 8, 8), 25.0, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 8, 8])
    """
    scale = torch.as_tensor(sigma, dtype=clean.dtype, device=clean.device) / 255
    if scale.shape in ((), (1,), clean.shape[:1]):
        scale = scale.view(-1, 1, 1, 1)
    elif scale.shape != (len(clean), 1, *clean.shape[2:]):
        raise InvalidInputError(
            f"expected one sigma, one for each of {len(clean)} images, or one per pixel "
            f"[{len(clean)},1,{clean.shape[2]},{clean.shape[3]}], got shape {list(scale.shape)}"
        )
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return clean + noise * scale


def sigma_map(height: int, width: int, ends: Range, scale: float, generator: Generator) -> Tensor:
    """Return a smooth random map [H,W] of sigmas within `ends` that varies over about `scale` pixels.

    Models spatially varying noise as in FFDNet (arXiv 1710.04026, section IV-D) and VDNet (arXiv 1908.11314), but with
    random rather than fixed maps.
    """
    low, high = ends
    return low + (high - low) * smooth_field(height, width, scale, generator)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Degradation):
    """White Gaussian noise, not clipped (KBNet, section 4.2), with one sigma per image or, sometimes, a smooth map.

    Fields:
        sigma: standard deviation on the scale of 255. Equal ends give a fixed one.
        varying_share: share of calls with a map of sigmas between two random values of that range.
        varying_scale: pixels over which a map changes, log-uniform.
    """

    sigma: Range = ranged(0, 55, within=(0, 255))
    varying_share: float = share(0.0)
    varying_scale: Range = ranged(16, 256, within=(1, 4096))

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        sigma: Tensor | float = uniform(self.sigma, generator)
        if chance(self.varying_share, generator):
            other = uniform(self.sigma, generator)
            ends = (min(float(sigma), other), max(float(sigma), other))
            scale = log_uniform(self.varying_scale, generator)
            height, width = clean.shape[1:]
            sigma = sigma_map(height, width, ends, scale, generator)[None, None]
        return gaussian_noise(clean[None], sigma, generator)[0]
