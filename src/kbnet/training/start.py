"""Where a run starts: random weights, weights to fine-tune, or the checkpoint in its folder."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kbnet.errors import ModelError, RecipeError, TrainingError
from kbnet.models import Network, load_model
from kbnet.training import checkpoint
from kbnet.training.recipe import Recipe

_log = logging.getLogger(__name__)


def initial_model(recipe: Recipe, folder: Path) -> Network:
    """The network of a recipe in training mode, with the weights of `model.init` or random ones.

    The former are not asked for where a checkpoint replaces them: its run goes on where they are gone.

    Raises:
        RecipeError: there are no such weights, or they are of a network with other settings.
    """
    model = recipe.create_model()
    if recipe.model.init is None or (folder / checkpoint.NAME).exists():
        return model
    try:
        start = load_model(recipe.model.init)
    except ModelError as error:
        raise RecipeError(f"model.init: {error}") from None
    if start.config != model.config:
        have, want = asdict(start.config), asdict(model.config)
        differing = [name for name in want if have.get(name) != want[name]]
        known = f", {differing[0]} {have[differing[0]]} and not {want[differing[0]]}" if differing[0] in have else ""
        raise RecipeError(
            f"model.init: {recipe.model.init} is a {start.family} with other settings than this recipe's "
            f"{recipe.model.preset}{known}; weights start a run of their own network only"
        )
    model.load_state_dict(start.state_dict())
    return model


def resume(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """The checkpoint of a run's folder; None if it has none.

    Raises:
        TrainingError: it is damaged, or of another network or optimiser.
    """
    state = checkpoint.load(folder)
    if state is None:
        return None
    before = Recipe.model_validate_json(state["recipe"])
    if (before.model.preset, before.model.settings) != (recipe.model.preset, recipe.model.settings):
        raise TrainingError(
            f"{folder} holds a run of {before.model.preset}, with other settings than this recipe's "
            f"{recipe.model.preset}; give another folder"
        )
    if before.optimizer.kind != recipe.optimizer.kind:
        raise TrainingError(
            f"{folder} holds a run with {before.optimizer.kind}, and this recipe has {recipe.optimizer.kind}; give "
            "another folder, and the weights of that run as model.init to go on from them"
        )
    if before != recipe:
        _log.warning("the recipe changed since the checkpoint at step %d; going on with the new one", state["step"])
    return state
