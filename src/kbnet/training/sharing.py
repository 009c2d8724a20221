"""Splits batches between the processes of a run."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from kbnet.data import PhotoPatches
from kbnet.training.recipe import Recipe


@dataclass
class Share:
    """The batches of one process: `share(step)` returns its part of the whole batch, on the CPU."""

    patches: PhotoPatches
    recipe: Recipe
    index: int
    processes: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return clean and degraded patches [B,C,H,W]. The same step always gives the same patches."""
        phase = self.recipe.phase_at(step)
        return self.patches.batch(step, phase.batch, phase.patch, part_of(phase.batch, self.index, self.processes))


def default_workers(device: torch.device, processes: int) -> int:
    """Choose the number of loader processes per training process; a GPU needs several."""
    cores = (os.cpu_count() or 1) // processes
    if device.type == "cpu":
        return 1 if cores > 1 else 0
    return max(1, min(8, cores - 1))


def part_of(count: int, index: int, parts: int) -> slice:
    """Return the `index`-th of `parts` nearly equal parts of `count` items."""
    return slice(count * index // parts, count * (index + 1) // parts)
