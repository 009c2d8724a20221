"""A mixture of all noise that photos have: from cameras, phones or scans, saved as JPEG, resized, or white Gaussian."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor
from torch.nn.functional import interpolate

from kbnet.degradations.base import Degradation, Range, make, quantise, ranged, share
from kbnet.degradations.camera import CameraNoise
from kbnet.degradations.jpeg import random_jpeg
from kbnet.degradations.noise import GaussianNoise
from kbnet.degradations.randomness import chance, log_uniform
from kbnet.errors import InvalidInputError


@dataclass(frozen=True, kw_only=True)
class PhotoNoise(Degradation):
    """Camera noise or white Gaussian noise; sometimes resized, and sometimes quantized to 8 bits and saved as JPEG.

    A single network trained on this mixture replaces one for each kind of noise, so users needn't know the kind.

    Fields:
        camera_share: share of calls with camera noise; the others have white Gaussian noise.
        camera, gaussian: settings of each; tables in a recipe.
        resized_share: share of calls in which the photo is resized after adding noise, which correlates the noise.
        resize_factor: scale factor of each side, log-uniform. Below 1, the noise was in a larger photo; above 1, in a
            smaller one.
        quantised_share: share of the calls with Gaussian noise that are clipped to [0,1] and rounded to 8 bits; the
            others are neither, as in papers.
        jpeg_share: share of those quantized calls that are then saved as JPEG; jpeg_quality, subsampled_share: as for
            `Jpeg`. Camera noise has its own JPEG settings.
    """

    camera_share: float = share(0.5)
    camera: CameraNoise = field(default_factory=CameraNoise)
    gaussian: GaussianNoise = field(default_factory=lambda: GaussianNoise(varying_share=0.2))
    resized_share: float = share(0.15)
    resize_factor: Range = ranged(0.5, 1.5, within=(0.25, 4))
    quantised_share: float = share(0.5)
    jpeg_share: float = share(0.5)
    jpeg_quality: Range = ranged(60, 98, within=(1, 100), whole=True)
    subsampled_share: float = share(0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("camera", CameraNoise), ("gaussian", GaussianNoise)):
            value: Any = getattr(self, name)
            if isinstance(value, dict):
                object.__setattr__(self, name, make(kind, value))
            elif not isinstance(value, kind):
                raise InvalidInputError(f"expected a table of settings for {name}, got {value!r}")

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        from_camera = chance(self.camera_share, generator)
        noise: Degradation = self.camera if from_camera else self.gaussian
        resized = chance(self.resized_share, generator)
        factor = log_uniform(self.resize_factor, generator)
        noisy = resized_noise(clean, noise, factor, generator) if resized else noise(clean, generator)
        quantised, compressed = chance(self.quantised_share, generator), chance(self.jpeg_share, generator)
        if from_camera:
            return quantise(noisy)
        if not quantised:
            return noisy
        if compressed:
            return random_jpeg(noisy, self.jpeg_quality, self.subsampled_share, generator)
        return quantise(noisy)


def resized_noise(
    clean: Tensor, degrade: Callable[[Tensor, Generator], Tensor], factor: float, generator: Generator
) -> Tensor:
    """Add the noise that a photo has after it is resized by `factor`.

    The image is resized back to its original size and degraded there, and only the difference is resized by `factor`
    and added, so that `clean` keeps its detail.

    Args:
        clean: [C,H,W] in [0,1].
        degrade: adds noise, and JPEG artefacts if it compresses.
        factor: scale factor of each side; below 1, the photo was downscaled; above 1, upscaled.
        generator: source of the noise.

    Returns:
        [C,H,W] in about [0,1], not clipped.
    """
    height, width = clean.shape[1:]
    before = max(1, round(height / factor)), max(1, round(width / factor))
    original = _resize(clean, before).clamp_(0, 1)
    return clean + _resize(degrade(original, generator) - original, (height, width))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
