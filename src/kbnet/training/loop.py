"""The training loop: accelerate for devices and processes, everything random a function of the step."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from torch.optim.swa_utils import AveragedModel

from kbnet import files
from kbnet.data import Loader, Mixup, PhotoPatches
from kbnet.errors import KBNetError, TrainingError
from kbnet.inference.memory import available_bytes
from kbnet.models import KBNetL, KBNetS, Network
from kbnet.training import checkpoint
from kbnet.training.curves import Curves
from kbnet.training.losses import loss_of
from kbnet.training.optimizers import make_optimizer
from kbnet.training.recipe import Recipe
from kbnet.training.schedule import learning_rate
from kbnet.training.sources import load_sources
from kbnet.training.start import initial_model, resume
from kbnet.training.validation import Validation, Validator

DIVERGED = "diverged.safetensors"

_Loaded = TypeVar("_Loaded")

_READ_EVERY = 10  # steps between looks at a GPU's losses; each look waits for it
_SMOOTHING = 0.98  # of the rate and the loader's share


@dataclass(frozen=True)
class Progress:
    """What the loop tells its caller after every step.

    `loss` and `grad_norm` (before clipping) are of this step, over all processes; `rate` is in steps a second without
    validations and checkpoints, `loader_share` the part of that time spent waiting for data.
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
    """The devices and processes there are: those of `accelerate launch` or torchrun, or one process."""
    # Without a GPU, accelerate takes several processes for several processes only when told that it is to use CPUs.
    several = "LOCAL_RANK" in os.environ and not torch.cuda.is_available()
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=2))  # the others wait while one decodes
    return Accelerator(cpu=several, mixed_precision="no", kwargs_handlers=[patient])


class Run:
    """One run of a recipe in a folder; `train()` starts it or goes on from its checkpoint.

    Args:
        recipe: what to train.
        data: folders of clean photographs or pairs, plain or as "NAME=FOLDER"; see `assign_folders`.
        folder: where checkpoints and curves go.
        accelerator: devices and processes; made here if not given.
        workers: processes that make batches ahead, for each training process; None chooses.
        memory: bytes that decoded photos may take in all processes together; None is half of what is free.
        cache: where photos are decoded to that do not fit; beside `folder` if not given.

    Raises:
        TrainingError: the folder holds the checkpoint of another recipe, or a batch is too small for the processes.
        RecipeError: the weights to start from are of another network.
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
                    f"a batch of {phase.batch} cannot be divided over {processes} processes and {phase.accumulate} "
                    "parts in each; the batch is that of all processes together"
                )
        self.step = 0
        self.best: tuple[int, float] | None = None
        """Step and mean PSNR in dB of the best validation so far."""
        self._interval: list[tuple[float, float]] = []
        torch.manual_seed(recipe.run.seed)
        model = initial_model(recipe, folder)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stub
        self.ema = AveragedModel(model)
        self.ema.to(self.accelerator.device)
        model.to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, recipe.optimizer))
        self.network = torch.compile(self.model) if recipe.run.compile else self.model
        if (state := resume(recipe, folder)) is not None:
            self._restore(state)

        channels = model.config.channels
        if memory is None:
            memory = available_bytes(torch.device("cpu")) // 2
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
        """Run to the end of the recipe, or until `stop()`, and return the averaged weights in eval mode.

        `stop` is asked after every step (on GPUs after every tenth). If any process says so all stop after the same
        step, with a checkpoint; `step` is then less than `recipe.steps`.

        Raises:
            TrainingError: the loss or the gradient became NaN or infinite; nothing is saved but the batch it was.
        """
        run = self.recipe.run
        curves = Curves(self.folder, self.step) if self.accelerator.is_main_process else None
        every = 1 if self.accelerator.device.type == "cpu" else _READ_EVERY
        pace, saved, stopping = _Pace(), time.monotonic(), False
        pin = self.accelerator.device.type == "cuda"
        self.model.train()
        with (
            _products(run.tf32),
            Loader(self.batch, self.step, self.recipe.steps, self.workers, pin) as loader,
            warnings.catch_warnings(),
        ):
            # Of 1x1 convolutions, whose memory formats are one and the same; DDP copes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            pending: list[Tensor] = []
            while self.step < self.recipe.steps and not stopping:
                pending.append(self._advance(*loader.next()))
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

    def averaged(self) -> Network:
        """The network with averaged weights, in eval mode."""
        network = self.ema.module.eval()
        assert isinstance(network, KBNetS | KBNetL)
        return network

    def save(self, validation: Validation | None = None) -> None:
        """Write the checkpoint, and keep it as the best one if `validation` says so; only the main process does."""
        if not self.accelerator.is_main_process:
            return
        better = validation is not None and (self.best is None or validation.mean > self.best[1])
        if better and validation is not None:
            self.best = (self.step, validation.mean)
        checkpoint.save(
            self.folder,
            {
                "recipe": self.recipe.model_dump_json(),
                "step": self.step,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "interval": self._interval,
            },
        )
        if better:
            checkpoint.keep_best(self.folder)

    def _advance(self, clean: Tensor, degraded: Tensor) -> Tensor:
        """Take one step; its loss, as this process's share of the mean over processes, and the gradient's norm, [2]."""
        phase, device = self.recipe.phase_at(self.step), self.accelerator.device
        clean, degraded = clean.to(device, non_blocking=True), degraded.to(device, non_blocking=True)
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for index in range(phase.accumulate):
            part = _part(len(clean), index, phase.accumulate)
            last = index == phase.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.run.bfloat16):
                    restored = self.network(degraded[part])
                # Gradients are averaged over processes, whose shares may differ by a patch.
                weight = len(clean[part]) * self.accelerator.num_processes / phase.batch
                loss = loss_of(self.recipe.loss, restored.float(), clean[part]) * weight
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        self._average()
        self.step += 1
        return torch.stack([total, norm])

    @torch.no_grad()
    def _average(self) -> None:
        """Follow the weights: an exponential average whose decay rises, so that the random start is soon forgotten.

        Not by AveragedModel's own update, which waits for a GPU to know how often it was called: that is the step.
        """
        decay = min(self.recipe.run.ema, (1 + self.step) / (10 + self.step)) if self.step else 0.0
        current = self.accelerator.unwrap_model(self.model).parameters()
        torch._foreach_lerp_(list(self.ema.module.parameters()), list(current), 1 - decay)
        self.ema.n_averaged += 1

    def _read(self, pending: list[Tensor], stop: bool) -> tuple[list[tuple[float, float]], bool]:
        """Losses and norms of the last steps, and whether any process is to stop, the same in all of them.

        Nothing is saved before its loss was read here, so that no checkpoint holds what came after an accident.
        """
        values = torch.stack([*pending, pending[0].new_tensor([float(stop), 0.0])])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        *losses, (stopping, _) = values.tolist()
        for index, (loss, norm) in enumerate(losses, self.step - len(losses)):
            if not np.isfinite(loss) or not np.isfinite(norm):
                self._tell_diverged(index, *(("loss", loss) if not np.isfinite(loss) else ("gradient's norm", norm)))
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
        """Write the means since the last line; those since a checkpoint's last line are in the checkpoint."""
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
        """What `load` returns, called first in one process of each machine; if it fails in one it fails in all."""
        loaded, problem = None, None
        with self.accelerator.local_main_process_first():
            try:
                loaded = load()
            except (KBNetError, OSError) as error:
                problem = error  # raised when nobody waits for this process any more
        if self.accelerator.num_processes > 1:
            failed = torch.tensor(float(loaded is None), device=self.accelerator.device)
            if float(self.accelerator.reduce(failed, "sum")) and problem is None:
                problem = TrainingError("another process could not read the data")
        if problem is not None:
            raise problem
        assert loaded is not None
        return loaded

    def _restore(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            if "fused" in group:
                group["fused"] = self.accelerator.device.type in ("cpu", "cuda")  # a checkpoint may say otherwise
        self.step = state["step"]
        self.best = state.get("best")
        self._interval = list(state.get("interval", []))
        if self.best is not None and self.best[0] == self.step and self.accelerator.is_main_process:
            checkpoint.keep_best(self.folder)  # as it was killed between the two


@dataclass
class Share:
    """The batches of one process: `share(step)` gives its part of the whole batch, on the CPU."""

    patches: PhotoPatches
    recipe: Recipe
    index: int
    processes: int

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Clean and degraded patches, the same whenever the step comes again."""
        phase = self.recipe.phase_at(step)
        return self.patches.batch(step, phase.batch, phase.patch, _part(phase.batch, self.index, self.processes))


def default_workers(device: torch.device, processes: int) -> int:
    """Loader processes for each training process: a GPU wants several."""
    cores = (os.cpu_count() or 1) // processes
    if device.type == "cpu":
        return 1 if cores > 1 else 0
    return max(1, min(8, cores - 1))


@contextlib.contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Whether a GPU may multiply float32 matrices, those of convolutions too, in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _part(count: int, index: int, parts: int) -> slice:
    return slice(count * index // parts, count * (index + 1) // parts)


class _Pace:
    """Steps a second and the loader's share of the time, of the last steps more than of the first.

    The very first ones, for which everything starts up, are forgotten once there are others.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = self._waited = self._seen = 0.0
        self._added = 0
        self._since = time.perf_counter()

    def add(self, steps: int, waited: float) -> None:
        kept = _SMOOTHING**steps if self._added != 1 else 0.0
        self._added += 1
        self._steps = kept * self._steps + steps
        self._seconds = kept * self._seconds + time.perf_counter() - self._since
        self._waited = kept * self._waited + waited - self._seen
        self._seen = waited

    def resume(self) -> None:
        """Go on timing, after a validation or checkpoint."""
        self._since = time.perf_counter()

    @property
    def rate(self) -> float:
        return self._steps / max(self._seconds, 1e-9)

    @property
    def share(self) -> float:
        return self._waited / max(self._seconds, 1e-9)
