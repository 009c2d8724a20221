"""One training step: forward and backward pass, optimizer, and the average of the weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from kbnet.nn import KBNetL, KBNetS, Network
from kbnet.training import capturing
from kbnet.training.losses import loss_of
from kbnet.training.optimizers import fuses, make_optimizer
from kbnet.training.recipe import Recipe
from kbnet.training.schedule import learning_rate
from kbnet.training.sharing import part_of


class Stepper:
    """Takes training steps, and holds everything that they change.

    Everything that changes from step to step (learning rate, weight of the average, batches) is in tensors, and nothing
    in a step synchronizes with a GPU. So a step can be captured as a CUDA graph (`kbnet.training.capturing`), and is
    the same function without one.

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
        device = accelerator.device
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stub
        self.ema = AveragedModel(model)
        self.ema.to(device)
        model.to(device)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe.optimizer))
        self._network = torch.compile(self.model) if recipe.run.compile else self.model
        # Fused optimizers read the rate as float32 on a GPU, and in any precision on a CPU.
        self._rate = torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self._share = torch.zeros((), device=device)
        reason = capturing.refuses(recipe.run.cuda_graph, accelerator)
        self._graphs = None if reason is not None else capturing.Graphs(self._work, self._recorded, device)
        if reason:
            capturing.say(reason)

    def __call__(self, clean: Tensor, degraded: Tensor) -> Tensor:
        """Take one step; returns the loss (this process's share of the mean over all) and the gradient norm, [2]."""
        self._rate.fill_(learning_rate(self.recipe, self.step))
        self._share.fill_(1 - self._decay())
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate if fuses(self.accelerator.device) else float(self._rate)
        if self._graphs is not None:
            result = self._graphs(self.recipe.phase_at(self.step), clean, degraded)
        else:
            device = self.accelerator.device
            result = self._work(clean.to(device, non_blocking=True), degraded.to(device, non_blocking=True))
        self.step += 1
        return result

    def _work(self, clean: Tensor, degraded: Tensor) -> Tensor:
        """The part of a step that runs on the device, where the batches are."""
        phase, device = self.recipe.phase_at(self.step), self.accelerator.device
        degraded = degraded.contiguous(memory_format=torch.channels_last)
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
        return torch.stack([total, norm])

    def _decay(self) -> float:
        """Decay of the average. It rises at first, so that the average soon forgets the random initial weights."""
        return min(self.recipe.run.ema, (1 + self.step) / (10 + self.step)) if self.step else 0.0

    @torch.no_grad()
    def _average(self) -> None:
        """Update the exponential average by `_share` of the way to the current weights.

        Doesn't use AveragedModel's own update, which synchronizes with the GPU to read its step counter.
        """
        averages: list[Tensor] = list(self.ema.module.parameters())
        current: list[Tensor] = list(self.accelerator.unwrap_model(self.model).parameters())
        way = list(torch._foreach_sub(current, averages))
        torch._foreach_mul_(way, self._share)
        torch._foreach_add_(averages, way)
        self.ema.n_averaged += 1

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Surround a capture of `_work`: gradients use the graph's memory, and the optimizers allow the capture."""
        self.optimizer.zero_grad()
        groups = [group for group in self.optimizer.param_groups if "capturable" in group]
        for group in groups:
            group["capturable"] = True
        try:
            yield
        finally:
            for group in groups:
                group["capturable"] = False

    @property
    def recorded(self) -> int:
        """Number of CUDA graphs captured so far."""
        return 0 if self._graphs is None else self._graphs.recorded

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
            "optimizer": _with_groups(self.optimizer.state_dict(), lambda group: {**group, "lr": float(group["lr"])}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state()`. The optimizer's settings are the recipe's, not those of the state."""
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        settings = [
            {name: group[name] for name in ("weight_decay", "betas") if name in group}
            for group in self.optimizer.param_groups
        ]
        # The checkpoint may come from another device. `fused` decides on which device loading puts the step counters.
        fused = fuses(self.accelerator.device)
        self.optimizer.load_state_dict(
            _with_groups(state["optimizer"], lambda group: {**group, "fused": fused} if "fused" in group else group)
        )
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)  # loading replaced them by those of the run so far
        self.step = state["step"]
        if self._graphs is not None:
            self._graphs.forget()


def _with_groups(state: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Apply `change` to every parameter group in the state of an optimizer, or of several optimizers by name."""
    if "param_groups" not in state:
        return {name: _with_groups(part, change) for name, part in state.items()}
    return {**state, "param_groups": [change(group) for group in state["param_groups"]]}


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
