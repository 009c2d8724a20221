"""Training batches of degraded patches from one or several sources, as a pure function of (seed, step)."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from kbnet.data.layouts import Item
from kbnet.data.photos import Pixels, to_tensor
from kbnet.data.shared import SharedMemory, at, place_of, share
from kbnet.degradations import gaussian_noise
from kbnet.degradations.jpeg import random_jpeg
from kbnet.degradations.randomness import chance, uniform
from kbnet.errors import InvalidInputError

_log = logging.getLogger(__name__)

_JPEG_QUALITY = (80, 97)  # of cameras and phones

Degradation = Callable[[Tensor, Generator], Tensor]
"""Function from a clean image [C,H,W] in [0,1] and a generator to the degraded image of the same shape."""


@dataclass(frozen=True)
class BatchNoise:
    """White Gaussian noise, not clipped, with a standard deviation drawn uniformly from a range for each patch.

    The noise is drawn for a whole batch at once, which is much faster than patch by patch.

    Attributes:
        sigma: lowest and highest standard deviation, on the scale of 255.
    """

    sigma: tuple[float, float]

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """Degrade one patch [C,H,W]."""
        return self.batch(clean[None], generator)[0]

    def batch(self, clean: Tensor, generator: Generator) -> Tensor:
        """Degrade patches [B,C,H,W], each with its own sigma."""
        low, high = self.sigma
        sigma = low + (high - low) * torch.rand(len(clean), generator=generator)
        return gaussian_noise(clean, sigma, generator)


@dataclass(frozen=True)
class Mixup:
    """Mixup (arXiv 1710.09412): with a probability, blend each patch of a batch with another one.

    The blending weight lambda ~ Beta(alpha, alpha) is drawn once per batch, as in the authors' code. Clean and degraded
    patches are blended in the same way.
    """

    alpha: float
    probability: float


@dataclass
class PhotoSet:
    """A source of patches: decoded photos or pairs, and how to degrade a clean patch.

    Attributes:
        photos: clean pixels and, in sets of pairs, the degraded pixels.
        names: names of the clean files, for messages.
        degrade: degrades a clean patch; None for pairs.
        weight: relative share of the patches that come from this set.
        margin: pixels around a patch that are degraded with it and then cropped, so that blur sees real surroundings.
        scale: range of the factor by which the photo is reduced for a patch; a photo that would become too small is
            reduced less.
        jpeg_share: share of the patches that are stored as JPEG with chroma of half resolution before anything else.
            Networks then learn how smooth the chroma of most photos is.
    """

    photos: list[tuple[Pixels, Pixels | None]]
    names: list[str]
    degrade: Degradation | None
    weight: float = 1.0
    margin: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    jpeg_share: float = 0.0
    _memory: SharedMemory | None = field(default=None, init=False, repr=False, compare=False)

    def share(self) -> None:
        """Move the photos to shared memory. Sent to another process, the set then takes no memory there."""
        arrays = [pixels for pair in self.photos for pixels in pair if pixels is not None]
        self._memory, shared = share(arrays)
        taken = iter(shared)
        self.photos = [(next(taken), None if pair[1] is None else next(taken)) for pair in self.photos]

    def __getstate__(self) -> dict[str, Any]:
        photos = [(place_of(clean), None if other is None else place_of(other)) for clean, other in self.photos]
        return self.__dict__ | {"photos": photos, "_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        photos = [(at(clean), None if other is None else at(other)) for clean, other in state["photos"]]
        self.__dict__ |= state | {"photos": photos}


def photo_set(
    items: Sequence[Item],
    decoded: Mapping[Path, Pixels | None],
    smallest: int,
    degrade: Degradation | None,
    *,
    largest: int | None = None,
    weight: float = 1.0,
    margin: int = 0,
    scale: tuple[float, float] = (1.0, 1.0),
    jpeg_share: float = 0.0,
) -> PhotoSet:
    """Build the set of one source from decoded photos or pairs.

    A photo is skipped with a warning if it is smaller than the `smallest` patch plus margins, or if the two images of a
    pair differ in size. Photos that couldn't be decoded are skipped, too. Photos smaller than the `largest` patch are
    used only for smaller patches.

    Raises:
        InvalidInputError: no photo is large enough for the largest patch.
    """
    loaded = PhotoSet([], [], degrade, weight, margin, scale, jpeg_share)
    wanted, largest = smallest + 2 * margin, (largest or smallest) + 2 * margin
    for item in items:
        clean = decoded[item.clean]
        degraded = None if item.degraded is None else decoded[item.degraded]
        if clean is None or (item.degraded is not None and degraded is None):
            continue
        if degraded is not None and degraded.shape != clean.shape:
            _log.warning(
                "skipped: %s is %dx%d, but %s is %dx%d",
                item.degraded,
                *degraded.shape[1::-1],
                item.clean,
                *clean.shape[1::-1],
            )
        elif min(clean.shape[:2]) < wanted:
            _log.warning("skipped: %s is %dx%d, smaller than a patch (%d)", item.clean, *clean.shape[1::-1], wanted)
        else:
            loaded.photos.append((clean, degraded))
            loaded.names.append(item.clean.name)
    small = sum(min(clean.shape[:2]) < largest for clean, _ in loaded.photos)
    if small == len(loaded.photos):
        raise InvalidInputError(f"expected photos of at least {largest} pixels per side, found none that can be read")
    if small:
        _log.info("%d of %d photos are smaller than the largest patch (%d)", small, len(loaded.photos), largest)
    return loaded


@dataclass
class PhotoPatches:
    """Random patches from one or several sets. Within a set, photos are drawn in proportion to their area; photos
    smaller than the patch of a step are not drawn.

    A batch is a pure function of (seed, step), and any part of it can be made independently. So a resumed run needs
    only its step, and processes needn't coordinate.
    """

    sets: Sequence[PhotoSet]
    seed: int = 0
    mixup: Mixup | None = None
    _places: list[tuple[PhotoSet, int]] = field(init=False, repr=False)
    _weights: dict[int, Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._places = [(chosen, index) for chosen in self.sets for index in range(len(chosen.photos))]
        self._weights = {}

    def _weights_for(self, patch: int) -> Tensor:
        """Return the probability weight of each photo: its area, or 0 if smaller than a patch plus margins."""
        if patch not in self._weights:
            weights = []
            for chosen in self.sets:
                side = patch + 2 * chosen.margin
                sizes = [clean.shape[:2] for clean, _ in chosen.photos]
                areas = torch.tensor([float(h * w) if min(h, w) >= side else 0.0 for h, w in sizes])
                weights.append(areas if len(self.sets) == 1 else areas * (chosen.weight / float(areas.sum())))
            self._weights[patch] = torch.cat(weights)
        return self._weights[patch]

    def batch(self, step: int, count: int, patch: int, part: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the clean and degraded patches of a step, each float32 [B,C,patch,patch]. Clean values are in [0,1].

        Args:
            step: step of the run, starting at 0.
            count: number of patches in the whole batch.
            patch: side of a patch in pixels.
            part: which patches to return. They equal those of the whole batch.
        """
        wanted = list(range(count))[part]
        with _one_thread():
            share, order = self._mixing(step, count)
            if order is None:
                return self._patches(step, count, patch, wanted)
            needed = sorted({*wanted, *(order[i] for i in wanted)})
            clean, degraded = self._patches(step, count, patch, needed)
            mine = torch.tensor([needed.index(i) for i in wanted])
            other = torch.tensor([needed.index(order[i]) for i in wanted])
            return torch.lerp(clean[other], clean[mine], share), torch.lerp(degraded[other], degraded[mine], share)

    def _mixing(self, step: int, count: int) -> tuple[float, list[int] | None]:
        if self.mixup is None:
            return 1.0, None
        numbers = np.random.default_rng(_hash(self.seed, step, "mixup"))
        if numbers.random() >= self.mixup.probability:
            return 1.0, None
        return float(numbers.beta(self.mixup.alpha, self.mixup.alpha)), numbers.permutation(count).tolist()

    def _scale(self, photos: PhotoSet, step: int, index: int) -> float:
        return uniform(photos.scale, Generator().manual_seed(_hash(self.seed, step, index, "scale")))

    def _stored(self, patch: Tensor, photos: PhotoSet, step: int, index: int) -> Tensor:
        generator = Generator().manual_seed(_hash(self.seed, step, index, "jpeg"))
        return random_jpeg(patch, _JPEG_QUALITY, 1.0, generator) if chance(photos.jpeg_share, generator) else patch

    def _patches(self, step: int, count: int, patch: int, wanted: list[int]) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.multinomial(self._weights_for(patch), count, replacement=True, generator=generator).tolist()
        corners = torch.rand(count, 2, generator=generator).tolist()
        turns = torch.randint(8, (count,), generator=generator).tolist()

        def cut(i: int) -> tuple[PhotoSet, Tensor, Tensor | None]:
            photos, index = self._places[chosen[i]]
            reduced = patch + 2 * photos.margin
            clean, degraded = photos.photos[index]
            side = min(round(reduced / self._scale(photos, step, i)), *clean.shape[:2])
            top, left = (int(at * (extent - side + 1)) for at, extent in zip(corners[i], clean.shape[:2], strict=True))
            window = slice(top, top + side), slice(left, left + side)
            return (
                photos,
                self._stored(_reduced(_turned(clean[window], turns[i]), reduced), photos, step, i),
                None if degraded is None else _turned(degraded[window], turns[i]),
            )

        only = self.sets[0].degrade if len(self.sets) == 1 else None
        if isinstance(only, BatchNoise):
            # Noise for the whole batch comes from the generator of the step, to stay compatible with earlier runs.
            clean = torch.stack([cut(i)[1] for i in range(count)])
            degraded = only.batch(clean, generator)
            return clean[wanted], degraded[wanted]
        pairs = []
        for i in wanted:
            photos, clean_patch, degraded_patch = cut(i)
            if degraded_patch is None:
                assert photos.degrade is not None
                pair = pair_of(photos.degrade, clean_patch, Generator().manual_seed(_hash(self.seed, step, i)))
                clean_patch, degraded_patch = pair
            inner = slice(photos.margin, photos.margin + patch)
            pairs.append((clean_patch[:, inner, inner], degraded_patch[:, inner, inner]))
        return torch.stack([clean for clean, _ in pairs]), torch.stack([degraded for _, degraded in pairs])


def pair_of(degrade: Degradation, clean: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return what a network should compute from a photo [C,H,W], and what it gets.

    The photo and its degraded version, unless the degradation has a method `pair`, such as that of a sensor's planes.
    """
    pair = getattr(degrade, "pair", None)
    if pair is None:
        return clean, degrade(clean, generator)
    wanted, given = pair(clean, generator)
    return wanted, given


def _turned(pixels: Pixels, turn: int) -> Tensor:
    turned = np.rot90(pixels, turn % 4)
    return to_tensor(turned[:, ::-1] if turn >= 4 else turned)


def _reduced(patch: Tensor, side: int) -> Tensor:
    if patch.shape[-1] == side:
        return patch
    smaller = interpolate(patch[None], size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return smaller[0].clamp_(0, 1)


def _hash(*parts: object) -> int:
    """Return a seed for a separate generator, unrelated to those of other steps and patches."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: sums then have the same order on all machines, and such small tensors don't need more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
