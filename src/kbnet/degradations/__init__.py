"""Image degradations as pure, seeded functions of (image, generator), with references to their sources.

>>> import torch
>>> degrade = create_degradation("camera-noise", clean_share=0.05, shot=[1e-4, 1e-2])
>>> degrade(torch.full((3, 128, 128), 0.5), torch.Generator().manual_seed(0)).shape
torch.Size([3, 128, 128])
"""

from kbnet import needs_torch  # noqa: F401, I001
from typing import Any

from kbnet.degradations.base import Degradation, make
from kbnet.degradations.camera import CameraNoise
from kbnet.degradations.defocus import Defocus
from kbnet.degradations.jpeg import Jpeg
from kbnet.degradations.kernels import load_kernels
from kbnet.degradations.mixed import Blur
from kbnet.degradations.motion import Motion
from kbnet.degradations.noise import GaussianNoise, gaussian_noise
from kbnet.degradations.photo_noise import PhotoNoise
from kbnet.degradations.rain import Rain
from kbnet.degradations.raw_noise import RawNoise
from kbnet.errors import InvalidInputError

__all__ = [
    "DEGRADATIONS",
    "Blur",
    "CameraNoise",
    "Defocus",
    "Degradation",
    "GaussianNoise",
    "Jpeg",
    "Motion",
    "PhotoNoise",
    "Rain",
    "RawNoise",
    "create_degradation",
    "gaussian_noise",
    "load_kernels",
]

DEGRADATIONS: dict[str, type[Degradation]] = {
    "gaussian": GaussianNoise,
    "camera-noise": CameraNoise,
    "photo-noise": PhotoNoise,
    "raw-noise": RawNoise,
    "rain": Rain,
    "defocus": Defocus,
    "motion": Motion,
    "jpeg": Jpeg,
    "blur": Blur,
}
"""All kinds of degradations by their name in recipes."""


def create_degradation(kind: str, **settings: Any) -> Degradation:
    """Create a degradation by the name of its kind.

    Args:
        kind: a key of `DEGRADATIONS`.
        settings: values of its fields. Ranges are lists or tuples of two numbers, or single numbers.

    Raises:
        InvalidInputError: unknown kind or field, or an invalid value.
    """
    if kind not in DEGRADATIONS:
        raise InvalidInputError(f"expected a degradation, one of {', '.join(DEGRADATIONS)}; got {kind!r}")
    return make(DEGRADATIONS[kind], settings)
