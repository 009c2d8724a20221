"""JPEG artefacts: blocks, and loss of colour detail."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, quantise, ranged, share
from kbnet.degradations.blur import mirrored
from kbnet.degradations.randomness import chance, integer
from kbnet.imaging import compress_jpeg

_BLOCK = 16  # pixels, for 4:2:0; blocks of 4:4:4 are half as wide


def jpeg(image: Tensor, quality: int, *, subsample_chroma: bool = False, phase: tuple[int, int] = (0, 0)) -> Tensor:
    """Encode [C,H,W] in [0,1] as a JPEG (ITU-T T.81) and decode it again.

    Args:
        image: float32 [C,H,W] with one or three channels in [0,1]. It is clipped and rounded to 8 bits first.
        quality: 1 to 100, on libjpeg's scale.
        subsample_chroma: 4:2:0 instead of 4:4:4.
        phase: position of the image's corner in a block of 16 pixels, down and across; (0, 0) for whole photos.

    Raises:
        InvalidInputError: `quality` is out of range.
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
    """Apply JPEG compression with random quality, chroma subsampling and phase, like a patch from within a photo."""
    chosen = integer(quality, generator)
    subsample = chance(subsampled_share, generator)
    phase = (integer((0, _BLOCK - 1), generator), integer((0, _BLOCK - 1), generator))
    return jpeg(image, chosen, subsample_chroma=subsample, phase=phase)


@dataclass(frozen=True, kw_only=True)
class Jpeg(Degradation):
    """JPEG compression with the encoder that also writes files.

    Fields:
        quality: on libjpeg's scale, both ends included.
        subsampled_share: share of calls with colour at half the resolution (4:2:0); the others use 4:4:4.
    """

    quality: Range = ranged(20, 98, within=(1, 100), whole=True)
    subsampled_share: float = share(0.5)

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        return random_jpeg(clean, self.quality, self.subsampled_share, generator)
