"""Optimizers: AdamW, or Muon for weight matrices and AdamW for all other parameters."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kbnet.training.recipe import OptimizerSection

_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
"""Muon's published constants, the same as in torch.optim.Muon."""


def make_optimizer(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Create the optimizer of a recipe for a network that is already on its device."""
    if section.kind == "muon":
        return MuonAdamW(model, section)
    return _adamw([{"params": list(model.parameters())}], section)


class MuonAdamW(Optimizer):
    """Muon for the weights of full convolutions, AdamW for everything else, under one learning rate.

    Muon treats a weight [O,I,k,k] as a matrix [O,I*k*k]. AdamW handles grouped convolutions, bases, scales and biases.
    Scales and biases don't decay. Weights have to: Muon's steps don't shrink with the gradient, so that without decay
    the weights grow, and each step changes them less (arXiv 2502.16982, section 2.2).

    Args:
        model: the network to optimize.
        section: learning rate and weight decay of both, and betas of AdamW.
    """

    def __init__(self, model: nn.Module, section: OptimizerSection) -> None:
        convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
        matrices = {id(m.weight): m.weight for m in convolutions if m.weight.requires_grad}
        others = [(name, p) for name, p in model.named_parameters() if id(p) not in matrices]
        weights = [p for name, p in others if not _is_vector(name, p)]
        vectors = [p for name, p in others if _is_vector(name, p)]
        self.muon = Muon(matrices.values(), lr=section.lr, weight_decay=section.weight_decay)
        self.adamw = _adamw([{"params": weights}, {"params": vectors, "weight_decay": 0.0}], section)
        super().__init__([*matrices.values(), *weights, *vectors], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` works as in torch's optimizers."""
        loss = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of both optimizers."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()


def _is_vector(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a scale or bias: it has one value per channel, or is added to values of the network."""
    return parameter.numel() == max(parameter.shape) or name.endswith("bias")


class Muon(Optimizer):
    """Muon: steps along the orthogonal matrix nearest to the momentum.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). Steps are scaled to the root mean
    square of AdamW's (arXiv 2502.16982, section 2.2), so that the same learning rate and weight decay suit both.
    torch.optim.Muon computes the same, one matrix at a time. Small networks have a hundred small matrices; batching
    those of equal shape takes a quarter of the time.

    Args:
        parameters: parameters with at least two dimensions; all but the first form the columns of the matrix.
        lr: learning rate; a group's may become a tensor without dimensions.
        weight_decay: decoupled weight decay, multiplied by the learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` works as in torch's optimizers."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
            directions = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov momentum
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            steps = _orthogonal(directions)
            torch._foreach_mul_(steps, group["lr"])
            torch._foreach_sub_(parameters, steps)
        return loss


def _orthogonal(directions: Iterable[Tensor]) -> list[Tensor]:
    """Bring the singular values of each direction near 1 and scale to AdamW's root mean square of 0.2."""
    directions = list(directions)
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, direction in enumerate(directions):
        rows = len(direction)
        by_shape[rows, direction.numel() // rows].append(index)
    steps = [torch.empty(0)] * len(directions)
    for (rows, columns), indices in by_shape.items():
        batch = torch.stack([directions[i].flatten(1) for i in indices])
        batch = newton_schulz(batch.mT).mT if rows > columns else newton_schulz(batch)
        for i, step in zip(indices, batch.float() * (0.2 * math.sqrt(max(rows, columns))), strict=True):
            steps[i] = step.reshape(directions[i].shape)
    return steps


def newton_schulz(matrices: Tensor) -> Tensor:
    """Return matrices [M,R,C], R <= C, with the same singular vectors and singular values of 0.7 to 1.2."""
    a, b, c = _QUINTIC
    x = matrices.to(_products(matrices.device))
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _products(device: torch.device) -> torch.dtype:
    """The dtype with the fastest products: without a matrix unit, bfloat16 takes 1.4 times as long as float32."""
    if device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
        return torch.float32
    return torch.bfloat16


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> torch.optim.AdamW:
    fused = fuses(groups[0]["params"][0].device)
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas, weight_decay=section.weight_decay, fused=fused)


def fuses(device: torch.device) -> bool:
    """Whether AdamW is one kernel there, which also takes its learning rate from a tensor."""
    return device.type in ("cpu", "cuda")
