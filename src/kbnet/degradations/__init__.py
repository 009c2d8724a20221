"""How photographs get worse: pure, seeded functions of (image, generator), each with its source.

>>> import torch
>>> degrade = create_degradation("camera-noise", clean_share=0.05, shot=[1e-4, 1e-2])
>>> degrade(torch.full((3, 128, 128), 0.5), torch.Generator().manual_seed(0)).shape
torch.Size([3, 128, 128])
"""

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
    "create_degradation",
    "gaussian_noise",
    "load_kernels",
]

DEGRADATIONS: dict[str, type[Degradation]] = {
    "gaussian": GaussianNoise,
    "camera-noise": CameraNoise,
    "photo-noise": PhotoNoise,
    "rain": Rain,
    "defocus": Defocus,
    "motion": Motion,
    "jpeg": Jpeg,
    "blur": Blur,
}
"""Every kind of degradation by its name in recipes."""


def create_degradation(kind: str, **settings: Any) -> Degradation:
    """A degradation by the name of its kind; `settings` are its fields, ranges as lists or tuples of two numbers.

    Raises:
        InvalidInputError: no such kind or field, or a value that contradicts itself.
    """
    if kind not in DEGRADATIONS:
        raise InvalidInputError(f"expected a degradation among {', '.join(DEGRADATIONS)}, got {kind!r}")
    return make(DEGRADATIONS[kind], settings)
