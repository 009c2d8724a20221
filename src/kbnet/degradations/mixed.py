"""Blur as found in photos: defocus or motion, often followed by slight noise and compression."""

from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, make, quantise, ranged, share
from kbnet.degradations.defocus import Defocus
from kbnet.degradations.jpeg import random_jpeg
from kbnet.degradations.motion import Motion
from kbnet.degradations.noise import gaussian_noise
from kbnet.degradations.randomness import chance, uniform
from kbnet.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Blur(Degradation):
    """Defocus or motion blur, sometimes followed by slight noise and JPEG compression.

    Fields:
        motion_share: share of calls with motion blur; the others have defocus.
        defocus, motion: settings of each; tables in a recipe.
        noise_share: share of calls with Gaussian noise after the blur; sigma: its standard deviation on the scale of
            255.
        jpeg_share: share of calls that end with JPEG compression; jpeg_quality, subsampled_share: as for `Jpeg`.
    """

    motion_share: float = share(0.5)
    defocus: Defocus = field(default_factory=Defocus)
    motion: Motion = field(default_factory=Motion)
    noise_share: float = share(0.3)
    sigma: Range = ranged(0, 3, within=(0, 255))
    jpeg_share: float = share(0.25)
    jpeg_quality: Range = ranged(75, 98, within=(1, 100), whole=True)
    subsampled_share: float = share(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("defocus", Defocus), ("motion", Motion)):
            value: Any = getattr(self, name)
            if isinstance(value, dict):
                object.__setattr__(self, name, make(kind, value))
            elif not isinstance(value, kind):
                raise InvalidInputError(f"expected a table of settings for {name}, got {value!r}")

    @property
    def margin(self) -> int:
        return max(self.defocus.margin, self.motion.margin)

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        blurred = (self.motion if chance(self.motion_share, generator) else self.defocus)(clean, generator)
        if chance(self.noise_share, generator):
            blurred = gaussian_noise(blurred[None], uniform(self.sigma, generator), generator)[0]
        if chance(self.jpeg_share, generator):
            return random_jpeg(blurred, self.jpeg_quality, self.subsampled_share, generator)
        return quantise(blurred)
