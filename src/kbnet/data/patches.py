"""Training batches: patches of one or several sources, degraded; a pure function of (seed, step)."""

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

from kbnet.data.layouts import Item
from kbnet.data.photos import Pixels, to_tensor
from kbnet.data.shared import SharedMemory, at, place_of, share
from kbnet.degradations import gaussian_noise
from kbnet.errors import InvalidInputError

_log = logging.getLogger(__name__)

Degradation = Callable[[Tensor, Generator], Tensor]
"""Clean [C,H,W] in [0,1] and a source of randomness in, the degraded picture of the same shape out."""


@dataclass(frozen=True)
class BatchNoise:
    """White Gaussian noise, not clipped, of a standard deviation drawn evenly from a range for each patch.

    Drawn for a whole batch at once, which costs a fraction of what drawing it patch by patch does.

    Attributes:
        sigma: lowest and highest, on the scale of 255.
    """

    sigma: tuple[float, float]

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """One patch [C,H,W], degraded."""
        return self.batch(clean[None], generator)[0]

    def batch(self, clean: Tensor, generator: Generator) -> Tensor:
        """Patches [B,C,H,W], degraded, each with a sigma of its own."""
        low, high = self.sigma
        sigma = low + (high - low) * torch.rand(len(clean), generator=generator)
        return gaussian_noise(clean, sigma, generator)


@dataclass(frozen=True)
class Mixup:
    """With this probability, average each patch of a batch with another one: lambda ~ Beta(alpha, alpha).

    Lambda is drawn once a batch, as the authors do; clean and degraded patches are mixed alike (arXiv 1710.09412).
    """

    alpha: float
    probability: float


@dataclass
class PhotoSet:
    """What patches are cut from: decoded photos or pairs, and how a clean patch is degraded.

    Attributes:
        photos: clean pixels, and those of the degraded picture in sets of pairs.
        names: of their files, for people.
        degrade: what degrades a clean patch; None for pairs.
        weight: share of the patches that this set gives, over the sum of all sets' weights.
        margin: pixels around a patch that are degraded with it and then cut off, so that blur meets real surroundings.
    """

    photos: list[tuple[Pixels, Pixels | None]]
    names: list[str]
    degrade: Degradation | None
    weight: float = 1.0
    margin: int = 0
    _memory: SharedMemory | None = field(default=None, init=False, repr=False, compare=False)

    def share(self) -> None:
        """Move the photos to where other processes find them; sent there, the set then takes no memory of theirs."""
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
) -> PhotoSet:
    """The photos or pairs of one source, out of those decoded.

    One that is smaller than the `smallest` patch and its margins, or whose two pictures differ in size, is named in a
    warning and left out; so are those that could not be decoded, which were named then. Those smaller than the
    `largest` patch serve smaller ones.

    Raises:
        InvalidInputError: none is left for the largest patch.
    """
    loaded = PhotoSet([], [], degrade, weight, margin)
    wanted, largest = smallest + 2 * margin, (largest or smallest) + 2 * margin
    for item in items:
        clean = decoded[item.clean]
        degraded = None if item.degraded is None else decoded[item.degraded]
        if clean is None or (item.degraded is not None and degraded is None):
            continue
        if degraded is not None and degraded.shape != clean.shape:
            _log.warning(
                "left out: %s is %dx%d and %s %dx%d",
                item.degraded,
                *degraded.shape[1::-1],
                item.clean,
                *clean.shape[1::-1],
            )
        elif min(clean.shape[:2]) < wanted:
            _log.warning("left out: %s is %dx%d, under a patch's %d", item.clean, *clean.shape[1::-1], wanted)
        else:
            loaded.photos.append((clean, degraded))
            loaded.names.append(item.clean.name)
    small = sum(min(clean.shape[:2]) < largest for clean, _ in loaded.photos)
    if small == len(loaded.photos):
        raise InvalidInputError(f"expected photos of at least {largest} pixels a side, found none that can be read")
    if small:
        _log.info("%d of %d photos are under the largest patch's %d", small, len(loaded.photos), largest)
    return loaded


@dataclass
class PhotoPatches:
    """Random patches of one or several sets; within a set, larger photos are drawn from more often, and
    those smaller than the patch of a step never.

    A batch is a pure function of (seed, step), and any part of it can be made alone: a run that knows its step needs
    no other position in the data, and processes need not talk about who makes what.
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
        """How often each photo is drawn from: by its area, and never if it is smaller than a patch and its margins."""
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
        """Clean and degraded patches of a step, each [B,C,patch,patch] float32; the clean ones lie in [0,1].

        Args:
            step: of the run, from 0.
            count: patches of the whole batch.
            patch: their side, pixels.
            part: which of them are wanted; the result is what the whole batch holds there.
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

    def _patches(self, step: int, count: int, patch: int, wanted: list[int]) -> tuple[Tensor, Tensor]:
        generator = Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.multinomial(self._weights_for(patch), count, replacement=True, generator=generator).tolist()
        corners = torch.rand(count, 2, generator=generator).tolist()
        turns = torch.randint(8, (count,), generator=generator).tolist()

        def cut(i: int) -> tuple[PhotoSet, Tensor, Tensor | None]:
            photos, index = self._places[chosen[i]]
            side = patch + 2 * photos.margin
            clean, degraded = photos.photos[index]
            top, left = (int(at * (extent - side + 1)) for at, extent in zip(corners[i], clean.shape[:2], strict=True))
            window = slice(top, top + side), slice(left, left + side)
            return (
                photos,
                _turned(clean[window], turns[i]),
                None if degraded is None else _turned(degraded[window], turns[i]),
            )

        only = self.sets[0].degrade if len(self.sets) == 1 else None
        if isinstance(only, BatchNoise):
            # As runs have been made from the start: noise for the whole batch from the generator of the step.
            clean = torch.stack([cut(i)[1] for i in range(count)])
            degraded = only.batch(clean, generator)
            return clean[wanted], degraded[wanted]
        pairs = []
        for i in wanted:
            photos, clean_patch, degraded_patch = cut(i)
            if degraded_patch is None:
                assert photos.degrade is not None
                degraded_patch = photos.degrade(clean_patch, Generator().manual_seed(_hash(self.seed, step, i)))
            inner = slice(photos.margin, photos.margin + patch)
            pairs.append((clean_patch[:, inner, inner], degraded_patch[:, inner, inner]))
        return torch.stack([clean for clean, _ in pairs]), torch.stack([degraded for _, degraded in pairs])


def _turned(pixels: Pixels, turn: int) -> Tensor:
    turned = np.rot90(pixels, turn % 4)
    return to_tensor(turned[:, ::-1] if turn >= 4 else turned)


def _hash(*parts: object) -> int:
    """A seed for a generator of its own, unrelated to those of the steps and patches beside it."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order whatever the machine and the worker, and no threads started for such small tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
