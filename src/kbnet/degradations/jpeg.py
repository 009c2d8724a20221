"""JPEG: the blocks and the missing colour detail of a compressed file."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, quantise, ranged, share
from kbnet.degradations.blur import mirrored
from kbnet.degradations.randomness import chance, integer
from kbnet.imaging import compress_jpeg

_BLOCK = 16  # pixels, of 4:2:0; the blocks of 4:4:4 are half as wide


def jpeg(image: Tensor, quality: int, *, subsample_chroma: bool = False, phase: tuple[int, int] = (0, 0)) -> Tensor:
    """Encode [C,H,W] in [0,1] as a JPEG (ITU-T T.81) and decode it again.

    Args:
        image: float32 of one or three channels, in [0,1] (clipped and rounded to 8 bits first).
        quality: 1 to 100, on libjpeg's scale.
        subsample_chroma: 4:2:0 instead of 4:4:4.
        phase: where in a block of 16 pixels the image begins, down and across; (0, 0) for whole photographs.

    Raises:
        InvalidInputError: a quality out of range.
    """
    rows, columns = (start % _BLOCK for start in phase)
    height, width = image.shape[1:]
    whole = mirrored(image, rows, columns)[:, : rows + height, : columns + width] if rows or columns else image
    pixels = (quantise(whole) * 255).round_().to(torch.uint8)
    array = np.ascontiguousarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    decoded = compress_jpeg(array, quality, subsample_chroma=subsample_chroma)[rows:, columns:]
    result = torch.from_numpy(decoded.astype(np.float32)) / 255
    return result[None] if result.ndim == 2 else result.permute(2, 0, 1).contiguous()


def random_jpeg(image: Tensor, quality: Range, subsampled_share: float, generator: Generator) -> Tensor:
    """A JPEG of random quality, colour resolution and phase, as a patch from anywhere in a photo would be."""
    chosen = integer(quality, generator)
    subsample = chance(subsampled_share, generator)
    phase = (integer((0, _BLOCK - 1), generator), integer((0, _BLOCK - 1), generator))
    return jpeg(image, chosen, subsample_chroma=subsample, phase=phase)


@dataclass(frozen=True, kw_only=True)
class Jpeg(Degradation):
    """JPEG compression, by the same encoder that writes files.

    Fields:
        quality: libjpeg's, both ends included.
        subsampled_share: share of calls with colour at half the resolution (4:2:0), else 4:4:4.
    """

    quality: Range = ranged(20, 98, within=(1, 100), whole=True)
    subsampled_share: float = share(0.5)

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        return random_jpeg(clean, self.quality, self.subsampled_share, generator)
