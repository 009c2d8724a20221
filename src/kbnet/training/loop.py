"""The training loop: accelerate for devices and processes, everything random a function of the step."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel

from kbnet.data import PhotoPatches, list_photos, split
from kbnet.degradations import gaussian_noise
from kbnet.errors import TrainingError
from kbnet.inference.arrays import to_batch
from kbnet.metrics import gaussian_scores
from kbnet.models import KBNetL, KBNetS, Network
from kbnet.training import checkpoint
from kbnet.training.recipe import Recipe
from kbnet.training.schedule import learning_rate

_log = logging.getLogger(__name__)

VALIDATION_SIGMAS = (15.0, 25.0, 50.0)
VALIDATION_CROP = 256


@dataclass(frozen=True)
class Progress:
    """What the loop tells its caller after every step."""

    step: int
    steps: int
    loss: float
    lr: float
    psnr: dict[float, float] | None = None  # dB by sigma, after a validation


class Run:
    """One run of a recipe in a folder; `train()` starts it or goes on from its checkpoint.

    Args:
        recipe: what to train.
        data: folder of clean photographs.
        folder: where checkpoints and curves go.
        accelerator: devices and processes; made here if not given.

    Raises:
        TrainingError: the folder holds the checkpoint of another recipe.
    """

    def __init__(self, recipe: Recipe, data: Path, folder: Path, accelerator: Accelerator | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        self.accelerator = accelerator or Accelerator()
        torch.manual_seed(recipe.run.seed)
        model = recipe.create_model()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stub
        self.ema = AveragedModel(model, multi_avg_fn=_average(recipe.run.ema))
        self.ema.to(self.accelerator.device)
        o = recipe.optimizer
        optimizer = torch.optim.AdamW(model.parameters(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.step = 0
        self._resume()

        channels = model.config.channels
        train, held_out = split(list_photos(data), recipe.run.validation_every)
        self.patches = PhotoPatches(train, channels, max(phase.patch for phase in recipe.phases))
        self.validation = [_centre(p) for p in PhotoPatches(held_out, channels, VALIDATION_CROP).photos]

    def train(self, report: Callable[[Progress], None] = lambda progress: None) -> Network:
        """Run to the end of the recipe and return the averaged weights in eval mode.

        Raises:
            TrainingError: the loss became NaN or infinite.
        """
        saved = time.monotonic()
        self.model.train()
        while self.step < self.recipe.steps:
            loss, lr = self._advance()
            scores = None
            if self.step % self.recipe.run.validation_steps == 0 or self.step == self.recipe.steps:
                scores = self.validate()
            report(Progress(self.step, self.recipe.steps, loss, lr, scores))
            if scores or time.monotonic() - saved > self.recipe.run.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.averaged()

    def averaged(self) -> Network:
        """The network with averaged weights, in eval mode."""
        network = self.ema.module.eval()
        assert isinstance(network, KBNetS | KBNetL)
        return network

    def _advance(self) -> tuple[float, float]:
        clean, degraded = self.batch(self.step)
        lr = learning_rate(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        loss = (self.model(degraded) - clean).abs().mean()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        value = float(self.accelerator.reduce(loss.detach(), "mean"))
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {self.step}; lower optimizer.lr or optimizer.clip_norm and resume "
                "from the last checkpoint"
            )
        self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        self.step += 1
        return value, lr

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Clean and degraded patches of a step, this process's share; the same whenever the step comes again."""
        phase = self.recipe.phase_at(step)
        generator = Generator().manual_seed(self.recipe.run.seed * 1_000_003 + step)
        clean = self.patches.batch(phase.batch, phase.patch, generator)
        low, high = self.recipe.degradation.sigma
        sigma = low + (high - low) * torch.rand(phase.batch, generator=generator)
        degraded = gaussian_noise(clean, sigma, generator)
        index, count = self.accelerator.process_index, self.accelerator.num_processes
        mine = slice(phase.batch * index // count, phase.batch * (index + 1) // count)
        device = self.accelerator.device
        clean, degraded = clean[mine].to(device), degraded[mine].to(device)
        return clean, degraded.contiguous(memory_format=torch.channels_last)

    def validate(self) -> dict[float, float]:
        """Mean PSNR in dB by sigma of the averaged weights on the photos held out, centre crops."""
        network = self.averaged()

        @torch.inference_mode()
        def restore(image: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, Any]:
            batch, back = to_batch(image)
            restored: np.ndarray[Any, Any] = back(network(batch.to(self.accelerator.device)))
            return restored

        return {
            sigma: float(np.mean([after for _, after in gaussian_scores(restore, self.validation, sigma)]))
            for sigma in VALIDATION_SIGMAS
        }

    def save(self) -> None:
        """Write the checkpoint; only the main process does."""
        if not self.accelerator.is_main_process:
            return
        checkpoint.save(
            self.folder,
            {
                "recipe": self.recipe.model_dump_json(),
                "step": self.step,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _resume(self) -> None:
        state = checkpoint.load(self.folder)
        if state is None:
            return
        before = Recipe.model_validate_json(state["recipe"])
        if before.model != self.recipe.model:
            raise TrainingError(
                f"{self.folder} holds a run of {before.model.preset}, with other settings than this recipe's "
                f"{self.recipe.model.preset}; give another folder"
            )
        if before != self.recipe:
            _log.warning("the recipe changed since the checkpoint at step %d; going on with the new one", state["step"])
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


_Tensors = list[Tensor] | tuple[Tensor, ...]


def _average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """An exponential moving average whose decay rises to `decay`, so that the random start is soon forgotten."""

    def update(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _centre(photo: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    top, left = ((side - VALIDATION_CROP) // 2 for side in photo.shape[:2])
    return photo[top : top + VALIDATION_CROP, left : left + VALIDATION_CROP]
