"""A folder of clean photographs, decoded once, and random patches of it."""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from kbnet.errors import ImageError, InvalidInputError
from kbnet.imaging import is_supported, read_photo, to_depth
from kbnet.inference.arrays import LUMA

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


def list_photos(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted by path.

    Raises:
        InvalidInputError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_supported(path))
    if not paths:
        raise InvalidInputError(f"expected a folder with image files, found none in {folder}; give another --data")
    return paths


def decode(path: Path, channels: int) -> Pixels:
    """One photo as 8-bit [H,W,3] or, with channels = 1, [H,W] luma (ITU-R BT.601, rounded).

    Raises:
        ImageError: the file cannot be read.
    """
    pixels: Pixels = to_depth(read_photo(path).pixels, 8).astype(np.uint8, copy=False)
    if channels == 1 and pixels.ndim == 3:
        pixels = np.rint(pixels @ np.array(LUMA)).astype(np.uint8)
    if channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return pixels


def split(paths: list[Path], every: int) -> tuple[list[Path], list[Path]]:
    """Hold every n-th photo out: (training, validation); a folder sorted by source gives each source its share."""
    return [p for i, p in enumerate(paths) if i % every], paths[::every]


class PhotoPatches:
    """Random patches of photographs held in memory as 8 bits; larger photos are drawn from more often.

    A batch is a pure function of its generator: a training run that knows its step needs no other position in the data.
    """

    def __init__(self, paths: list[Path], channels: int, smallest_side: int) -> None:
        """Decode the photos; one that cannot be read or is under `smallest_side` is named in a warning and left out.

        Raises:
            InvalidInputError: none is left.
        """
        self.photos: list[Pixels] = []
        for path in paths:
            try:
                pixels = decode(path, channels)
            except ImageError as error:
                _log.warning("left out: %s", error)
                continue
            if min(pixels.shape[:2]) < smallest_side:
                _log.warning("left out: %s is %dx%d, under a patch's %d", path, *pixels.shape[1::-1], smallest_side)
                continue
            self.photos.append(pixels)
        if not self.photos:
            raise InvalidInputError(
                f"expected photos of at least {smallest_side} pixels a side, found none that can be read"
            )
        self.weights = torch.tensor([float(p.shape[0] * p.shape[1]) for p in self.photos])

    def batch(self, count: int, patch: int, generator: Generator) -> Tensor:
        """Patches [count,C,patch,patch] in [0,1], each flipped or turned at random."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        numbers = torch.rand(count, 2, generator=generator).tolist()
        turns = torch.randint(8, (count,), generator=generator).tolist()
        patches = []
        for index, (down, across), turn in zip(chosen.tolist(), numbers, turns, strict=True):
            photo = self.photos[index]
            top, left = int(down * (photo.shape[0] - patch + 1)), int(across * (photo.shape[1] - patch + 1))
            cut = np.rot90(photo[top : top + patch, left : left + patch], turn % 4)
            patches.append(to_tensor(cut[:, ::-1] if turn >= 4 else cut))
        return torch.stack(patches)


def to_tensor(pixels: Pixels) -> Tensor:
    """8-bit [H,W] or [H,W,3] -> float32 [C,H,W] in [0,1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return (tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)).float() / 255
