"""Training: a validated recipe, a loop that resumes, checkpoints. Needs the `train` extra."""

from kbnet.training.loop import Progress, Run
from kbnet.training.recipe import Recipe

__all__ = ["Progress", "Recipe", "Run"]
