"""One step of a training: the weights, their average and the optimizer, and what a batch does to them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from kbnet.models import KBNetL, KBNetS, Network
from kbnet.training.losses import loss_of
from kbnet.training.optimizers import make_optimizer
from kbnet.training.recipe import Recipe
from kbnet.training.schedule import learning_rate
from kbnet.training.sharing import part_of


class Stepper:
    """Everything that a step changes.

    Args:
        recipe: what to train.
        accelerator: devices and processes.
        model: its first weights.

    Attributes:
        step: steps taken.
        model, ema, optimizer: as they are after that step; `ema` averages the weights.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, model: Network) -> None:
        self.recipe, self.accelerator, self.step = recipe, accelerator, 0
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stub
        self.ema = AveragedModel(model)
        self.ema.to(accelerator.device)
        model.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe.optimizer))
        self._network = torch.compile(self.model) if recipe.run.compile else self.model

    def __call__(self, clean: Tensor, degraded: Tensor) -> Tensor:
        """Take one step; its loss, as this process's share of the mean over processes, and the gradient's norm, [2]."""
        phase, device = self.recipe.phase_at(self.step), self.accelerator.device
        clean, degraded = clean.to(device, non_blocking=True), degraded.to(device, non_blocking=True)
        degraded = degraded.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for index in range(phase.accumulate):
            part = part_of(len(clean), index, phase.accumulate)
            last = index == phase.accumulate - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.run.bfloat16):
                    restored = self._network(degraded[part])
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

    def averaged(self) -> Network:
        """The network with averaged weights, in eval mode."""
        network = self.ema.module.eval()
        assert isinstance(network, KBNetS | KBNetL)
        return network

    def state(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of `state()`."""
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            if "fused" in group:
                group["fused"] = self.accelerator.device.type in ("cpu", "cuda")  # a checkpoint may say otherwise
        self.step = state["step"]


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Whether a GPU may multiply float32 matrices, those of convolutions too, in TF32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
