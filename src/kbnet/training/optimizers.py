"""What takes a step: AdamW, or Muon for the matrices among the weights and AdamW for the rest."""

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
"""Of Muon, as its author publishes them; torch.optim.Muon has the same."""


def make_optimizer(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """The optimiser of a recipe, for a network on its device."""
    if section.kind == "muon":
        return MuonAdamW(model, section)
    return _adamw(model.parameters(), section)


class MuonAdamW(Optimizer):
    """Muon for the weights of full convolutions, AdamW for everything else, under one learning rate.

    A weight of shape [O,I,k,k] is the matrix [O,I*k*k] to Muon; grouped convolutions, bases, scales and biases are no
    such matrices.

    Args:
        model: whose parameters are optimised.
        section: learning rate and weight decay of both, betas of AdamW.
    """

    def __init__(self, model: nn.Module, section: OptimizerSection) -> None:
        convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == 1)
        matrices = {id(m.weight): m.weight for m in convolutions if m.weight.requires_grad}
        others = [p for p in model.parameters() if id(p) not in matrices]
        self.muon = Muon(matrices.values(), lr=section.lr, weight_decay=section.weight_decay)
        self.adamw = _adamw(others, section)
        super().__init__([*matrices.values(), *others], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` is as in torch's optimisers."""
        loss = None if closure is None else closure()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the states of both."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self._share_groups()


class Muon(Optimizer):
    """Steps along the nearest orthogonal matrix of the momentum, so that all directions a layer has move equally far.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with the steps scaled to the root
    mean square of AdamW's (arXiv 2502.16982, section 2.2), so that the same learning rate and weight decay suit both.
    torch.optim.Muon computes the same for matrices one by one; small networks have a hundred small ones, and batches of
    equal shapes take a quarter of its time.

    Args:
        parameters: of at least two dimensions; all but the first make the columns of the matrix.
        lr: learning rate.
        weight_decay: decoupled, times the learning rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; `closure` is as in torch's optimisers."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if "momentum" not in self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
            directions = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov's
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, _orthogonal(directions), alpha=-group["lr"])
        return loss


def _orthogonal(directions: Iterable[Tensor]) -> list[Tensor]:
    """Each of the directions with its singular values near 1, scaled to the root mean square 0.2 of AdamW's steps."""
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
    """Matrices [M,R,C], R <= C, with the same singular vectors and singular values near 1 (0.7 to 1.2), bfloat16."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _adamw(parameters: Iterable[Tensor], section: OptimizerSection) -> torch.optim.AdamW:
    parameters = list(parameters)
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameters, lr=section.lr, betas=section.betas, weight_decay=section.weight_decay, fused=fused
    )
