"""The learning rate as a function of the step. Resuming a run therefore needs no schedule state."""

import math

from kbnet.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then constant and decay, or cycles."""
    o = recipe.optimizer
    if step < o.warmup_steps:
        return o.lr * (step + 1) / o.warmup_steps
    start = o.warmup_steps
    for cycle in o.cycles:
        if step < start + cycle.steps or cycle is o.cycles[-1]:
            final = o.final_lr if cycle.final_lr is None else cycle.final_lr
            return _cosine(cycle.lr or o.lr, final, min(1.0, (step - start + 1) / cycle.steps))
        start += cycle.steps
    start += o.hold_steps
    if step < start:
        return o.lr
    progress = min(1.0, (step - start + 1) / (recipe.steps - start)) if recipe.steps > start else 1.0
    if o.schedule == "linear":
        return o.lr + (o.final_lr - o.lr) * progress
    if o.schedule == "1-sqrt":  # arXiv 2405.18392, section 3.2
        return o.lr + (o.final_lr - o.lr) * math.sqrt(progress)
    return _cosine(o.lr, o.final_lr, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
