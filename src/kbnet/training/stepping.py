"""One training step: forward and backward pass, optimizer, and the average of the weights."""

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
    """Takes training steps, and holds everything that they change.

    Args:
        recipe: the recipe.
        accelerator: devices and processes.
        model: the network with its initial weights.

    Attributes:
        step: number of steps done.
        model, ema, optimizer: the network, the exponential average of its weights, and the optimizer.
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
        """Take one step; returns the loss (this process's share of the mean over all) and the gradient norm, [2]."""
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
                # Gradients are averaged over processes, whose shares of a batch can differ by a patch.
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
        """Update the exponential average. Its decay rises at first, so that it soon forgets the random initial weights.

        Doesn't use AveragedModel's own update, which synchronises with the GPU to read its step counter.
        """
        decay = min(self.recipe.run.ema, (1 + self.step) / (10 + self.step)) if self.step else 0.0
        current = self.accelerator.unwrap_model(self.model).parameters()
        torch._foreach_lerp_(list(self.ema.module.parameters()), list(current), 1 - decay)
        self.ema.n_averaged += 1

    def averaged(self) -> Network:
        """Return the network with averaged weights, in eval mode."""
        network = self.ema.module.eval()
        assert isinstance(network, KBNetS | KBNetL)
        return network

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state()`."""
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            if "fused" in group:
                group["fused"] = self.accelerator.device.type in ("cpu", "cuda")  # a checkpoint may say otherwise
        self.step = state["step"]


@contextlib.contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 for float32 matrix products and convolutions on GPUs, inside the context manager."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
