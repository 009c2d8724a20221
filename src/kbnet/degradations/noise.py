"""Noise added to clean photographs: pure functions of an image and a random generator."""

import torch
from torch import Generator, Tensor

from kbnet.errors import InvalidInputError


def gaussian_noise(clean: Tensor, sigma: Tensor | float, generator: Generator | None = None) -> Tensor:
    """Add white Gaussian noise, neither clipped nor quantised (KBNet, arXiv 2303.02881, section 4.2).

    Args:
        clean: images [B,C,H,W], nominally in [0,1].
        sigma: standard deviation on the scale of 0 to 255; one number, or one per image, [B].
        generator: source of the noise; torch's default one if not given.

    Returns:
        [B,C,H,W] in the dtype of `clean`, reaching outside [0,1].

    Raises:
        InvalidInputError: `sigma` is neither one number nor one per image.

    Example:
        >>> gaussian_noise(torch.zeros(1, 3, 8, 8), 25.0, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 3, 8, 8])
    """
    scale = torch.as_tensor(sigma, dtype=clean.dtype, device=clean.device) / 255
    if scale.shape not in ((), (1,), clean.shape[:1]):
        raise InvalidInputError(f"expected one sigma or one for each of {len(clean)} images, got {list(scale.shape)}")
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
    return clean + noise * scale.view(-1, 1, 1, 1)
