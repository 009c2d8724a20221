"""Training: validated recipes, a resumable loop and checkpoints. Needs the `train` extra."""

from kbnet import needs_torch  # noqa: F401
from kbnet.training.loop import Progress, Run, make_accelerator
from kbnet.training.recipe import Recipe
from kbnet.training.validation import Validation

__all__ = ["Progress", "Recipe", "Run", "Validation", "make_accelerator"]
