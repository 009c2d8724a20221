"""The training loop. accelerate handles devices and processes; all randomness is a function of the step."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from safetensors.torch import save as serialize
from torch import Tensor

from kbnet import files
from kbnet.data import Loader, Mixup, PhotoPatches
from kbnet.errors import KBNetError, TrainingError
from kbnet.inference.failures import lacks_memory
from kbnet.inference.memory import available_bytes
from kbnet.nn import Network
from kbnet.training import checkpoint
from kbnet.training.curves import Curves
from kbnet.training.fingerprint import changes
from kbnet.training.pace import Pace
from kbnet.training.recipe import Recipe
from kbnet.training.schedule import learning_rate
from kbnet.training.sharing import Share, default_workers
from kbnet.training.sources import load_sources
from kbnet.training.start import inherit_usage, initial_model, resume
from kbnet.training.stepping import Stepper, products
from kbnet.training.validation import Validation, Validator

_log = logging.getLogger(__name__)

DIVERGED = "diverged.safetensors"

_Loaded = TypeVar("_Loaded")

_READ_EVERY = 10  # steps between reads of a GPU's losses; each read synchronizes


@dataclass(frozen=True)
class Progress:
    """What the loop reports after every step.

    Attributes:
        step, steps: steps done, and steps of the whole run.
        loss: loss of this step, averaged over all processes.
        lr: learning rate of this step.
        grad_norm: norm of the gradient before clipping, averaged over all processes.
        validation: result of the validation after this step, if there was one.
        rate: steps per second, without validations and checkpoints.
        loader_share: fraction of that time spent waiting for data.
    """

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    validation: Validation | None = None
    rate: float = field(default=0.0, compare=False)
    loader_share: float = field(default=0.0, compare=False)


def make_accelerator() -> Accelerator:
    """Create an accelerator for the processes of `accelerate launch` or torchrun, or for this process alone."""
    # Without a GPU, accelerate runs distributed only if told explicitly to use CPUs.
    several = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # the others wait while one process decodes
    return Accelerator(cpu=several, mixed_precision="no", kwargs_handlers=[patient])


class Run:
    """One run of a recipe in a folder. `train()` starts it, or resumes it from its checkpoint.

    Args:
        recipe: the recipe.
        data: folders of clean photos or pairs, plain or as "NAME=FOLDER"; see `assign_folders`.
        folder: folder for checkpoints and curves.
        accelerator: devices and processes; defaults to `make_accelerator()`.
        workers: loader processes per training process, which prepare batches ahead; None chooses a number.
        memory: limit in bytes on decoded photos, for all processes together; None means half of the free memory.
        cache: folder for decoded photos that don't fit in memory; defaults to "cache" next to `folder`.

    Raises:
        TrainingError: the folder holds a checkpoint of another network or optimizer, or a batch is too small for the
            number of processes.
        RecipeError: the initial weights belong to another network.
        InvalidInputError: a source has no usable photo.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path | str | Sequence[Path | str],
        folder: Path,
        accelerator: Accelerator | None = None,
        *,
        workers: int | None = None,
        memory: int | None = None,
        cache: Path | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.accelerator = accelerator or make_accelerator()
        processes = self.accelerator.num_processes
        for phase in recipe.phases:
            if phase.batch < processes * phase.accumulate:
                raise TrainingError(
                    f"a batch of {phase.batch} is too small for {processes} processes with {phase.accumulate} parts "
                    "each; increase batch, which counts the patches of all processes together"
                )
        self.best: tuple[int, float] | None = None
        """Step and mean PSNR in dB of the best validation so far."""
        self._interval: list[tuple[float, float]] = []
        torch.manual_seed(recipe.run.seed)
        model = initial_model(recipe, folder)
        self.stepper = Stepper(recipe, self.accelerator, model)
        state = resume(recipe, folder)
        if state is not None:
            self._resume(state)

        channels = 1 if model.config.channels == 1 else 3  # of photos; a sensor has more
        if memory is None:
            memory = available_bytes() // 2
        local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        folders = [data] if isinstance(data, Path | str) else list(data)
        sets, held_out = self._together(
            lambda: load_sources(
                recipe,
                folders,
                channels,
                model.input_multiple,
                memory=memory // local,
                cache=cache or folder.parent / "cache",
            )
        )
        self._photos = [held.fingerprint for held in held_out]
        if state is not None:
            self._compare(state.get("photos"))
        self.workers = default_workers(self.accelerator.device, local) if workers is None else workers
        if self.workers:
            for photos in sets:
                photos.share()
        mixup = None if recipe.mixup is None else Mixup(recipe.mixup.alpha, recipe.mixup.probability)
        self.patches = PhotoPatches(sets, recipe.run.seed, mixup)
        self.validator = Validator(held_out, model.input_multiple)
        self.batch = Share(self.patches, recipe, self.accelerator.process_index, processes)

    def train(
        self,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Network:
        """Train to the end of the recipe, or until `stop()` returns true.

        Args:
            report: called after every step.
            stop: called after every step (on GPUs after every tenth). If it returns true in any process, all processes
                write a checkpoint and stop after the same step; `step` is then less than `recipe.steps`.

        Returns:
            The network with averaged weights, in eval mode.

        Raises:
            TrainingError: the loss or the gradient became NaN or infinite. Only the batch is saved, no checkpoint.
        """
        run = self.recipe.run
        curves = self._begin()
        every = 1 if self.accelerator.device.type == "cpu" else _READ_EVERY
        pace, saved, stopping = Pace(), time.monotonic(), False
        pin = self.accelerator.device.type == "cuda"
        self.stepper.model.train()
        with (
            products(run.tf32),
            Loader(self.batch, self.step, self.recipe.steps, self.workers, pin) as loader,
            warnings.catch_warnings(),
        ):
            # From 1x1 convolutions, whose strides are ambiguous; DDP handles them.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            pending: list[Tensor] = []
            while self.step < self.recipe.steps and not stopping:
                pending.append(self.stepper(*loader.next()))
                due = self.step % run.validation_steps == 0 or self.step == self.recipe.steps
                if len(pending) < every and not due:
                    continue
                losses, stopping = self._read(pending, stop())
                pace.add(len(pending), loader.waited)
                pending = []
                validation = self.validator(self.averaged(), self.accelerator) if due else None
                for index, (loss, norm) in enumerate(losses, self.step - len(losses) + 1):
                    last = validation if index == self.step else None
                    lr = learning_rate(self.recipe, index - 1)
                    progress = Progress(index, self.recipe.steps, loss, lr, norm, last, pace.rate, pace.share)
                    self._note(progress, curves)
                    report(progress)
                if validation or stopping or time.monotonic() - saved > run.checkpoint_minutes * 60:
                    self.save(validation)
                    saved = time.monotonic()
                pace.resume()
        return self.averaged()

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.stepper.step

    def averaged(self) -> Network:
        """Return the network with averaged weights, in eval mode."""
        return self.stepper.averaged()

    def save(self, validation: Validation | None = None) -> None:
        """Write a checkpoint, and keep it as the best one if `validation` is. Only the main process writes."""
        if not self.accelerator.is_main_process:
            return
        better = validation is not None and (self.best is None or validation.mean > self.best[1])
        if better and validation is not None:
            self.best = (self.step, validation.mean)
        checkpoint.save(
            self.folder,
            {
                "recipe": self.recipe.model_dump_json(),
                **self.stepper.state(),
                "best": self.best,
                "interval": self._interval,
                "photos": self._photos,
            },
        )
        if better:
            checkpoint.keep_best(self.folder)

    def _begin(self) -> Curves | None:
        """Write the first files of a run. Only the main process writes."""
        if not self.accelerator.is_main_process:
            return None
        curves = Curves(self.folder, self.step)
        inherit_usage(self.recipe, self.folder)
        if not (self.folder / checkpoint.NAME).exists():
            self.save()  # so that a run also resumes if it ends before its first regular checkpoint
        return curves

    def _read(self, pending: list[Tensor], stop: bool) -> tuple[list[tuple[float, float]], bool]:
        """Return losses and gradient norms of the last steps, and whether to stop; the same in all processes.

        Every loss is read here before a checkpoint is saved, so no checkpoint holds weights from after a divergence.
        """
        values = torch.stack([*pending, pending[0].new_tensor([float(stop), 0.0])])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        *losses, (stopping, _) = values.tolist()
        for index, (loss, norm) in enumerate(losses, self.step - len(losses)):
            if not np.isfinite(loss) or not np.isfinite(norm):
                self._tell_diverged(index, *(("loss", loss) if not np.isfinite(loss) else ("gradient norm", norm)))
        return [(loss, norm) for loss, norm in losses], stopping > 0

    def _tell_diverged(self, step: int, what: str, value: float) -> None:
        path = self.folder / DIVERGED
        if self.accelerator.is_main_process:
            phase = self.recipe.phase_at(step)
            clean, degraded = self.patches.batch(step, phase.batch, phase.patch)
            files.make_folder(self.folder)
            files.write(serialize({"clean": clean, "degraded": degraded}, {"step": str(step)}), path, overwrite=True)
        raise TrainingError(
            f"the {what} became {value} at step {step}; lower optimizer.lr or optimizer.clip_norm and resume from the "
            f"last checkpoint. The batch is in {path}"
        )

    def _note(self, progress: Progress, curves: Curves | None) -> None:
        """Write the means since the last line. A checkpoint stores the values that aren't written yet."""
        self._interval.append((progress.loss, progress.grad_norm))
        if progress.step % self.recipe.run.log_steps == 0 or progress.step == self.recipe.steps:
            losses, norms = zip(*self._interval, strict=True)
            self._interval = []
            if curves is not None:
                entry = {"loss": float(np.mean(losses)), "grad_norm": float(np.mean(norms)), "lr": progress.lr}
                paces = {"steps_per_second": round(progress.rate, 4), "loader_share": round(progress.loader_share, 5)}
                curves.write({"step": progress.step} | entry | paces)
        if progress.validation is not None and curves is not None:
            scores = {"psnr": progress.validation.scores, "input_psnr": progress.validation.inputs}
            curves.write({"step": progress.step} | scores)

    def _together(self, load: Callable[[], _Loaded]) -> _Loaded:
        """Call `load` first in one process of each machine, then in the others. If one fails, all fail."""
        loaded, problem = None, None
        with self.accelerator.local_main_process_first():
            try:
                loaded = load()
            except (KBNetError, OSError) as error:
                problem = error  # raised below, when no process waits for this one
        if self.accelerator.num_processes > 1:
            failed = torch.tensor(float(loaded is None), device=self.accelerator.device)
            if float(self.accelerator.reduce(failed, "sum")) and problem is None:
                problem = TrainingError("another process couldn't read the data; see its error message")
        if problem is not None:
            raise problem
        assert loaded is not None
        return loaded

    def _resume(self, state: dict[str, Any]) -> None:
        path = self.folder / checkpoint.NAME
        try:
            self.stepper.load_state(state)
            best = state.get("best")
            self.best = None if best is None else (int(best[0]), float(best[1]))
            self._interval = [(float(loss), float(norm)) for loss, norm in state.get("interval", [])]
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            if lacks_memory(error):
                raise
            # torch lists every tensor that doesn't fit, each in a line of its own
            first = (str(error).strip().splitlines() or [""])[0].rstrip(":")
            raise checkpoint.foreign(path, f"{type(error).__name__}: {first}") from error
        if self.best is not None and self.best[0] == self.step and self.accelerator.is_main_process:
            checkpoint.keep_best(self.folder)  # the run was killed before it could

    def _compare(self, before: object) -> None:
        """Forget the best validation if the photos aren't those of the checkpoint: other photos have other PSNRs."""
        if told := changes(before, self._photos):
            self.best = None
            _log.warning(
                "the photos changed since the checkpoint: %s; the best validation starts anew, and photos that were "
                "trained on may be held out now",
                told,
            )
