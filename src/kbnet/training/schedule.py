"""The learning rate as a function of the step, so that a resumed run needs no schedule state."""

import math

from kbnet.training.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of step `step`, counted from 0: linear warm-up, constant, then half a cosine to the last step."""
    o = recipe.optimizer
    if step < o.warmup_steps:
        return o.lr * (step + 1) / o.warmup_steps
    start = o.warmup_steps + o.hold_steps
    if step < start:
        return o.lr
    progress = min(1.0, (step - start + 1) / (recipe.steps - start))
    return o.final_lr + (o.lr - o.final_lr) * (1 + math.cos(math.pi * progress)) / 2
