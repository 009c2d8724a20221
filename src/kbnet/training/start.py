"""Where a run starts: random weights, weights to fine-tune, or the checkpoint in its folder."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kbnet.errors import ModelError, RecipeError, TrainingError
from kbnet.models import KBNetS, KBNetSConfig, Network, load_model
from kbnet.training import checkpoint
from kbnet.training.recipe import Recipe

_log = logging.getLogger(__name__)


def initial_model(recipe: Recipe, folder: Path) -> Network:
    """The network of a recipe in training mode, with the weights of `model.init` or random ones.

    A gray network may start from the weights of a colour one, and a KBNet-S from those of the same with fewer blocks.

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
    state, config = start.state_dict(), start.config
    if (config.channels, model.config.channels) == (3, 1):
        state, config = _as_gray(state), replace(config, channels=1)
    if isinstance(config, KBNetSConfig) and isinstance(model, KBNetS) and _is_deeper(model.config, config):
        state, config = _deepened(state, model), model.config
    if config != model.config:
        have, want = asdict(config), asdict(model.config)
        differing = [name for name in want if have.get(name) != want[name]]
        known = f", {differing[0]} {have[differing[0]]} and not {want[differing[0]]}" if differing[0] in have else ""
        raise RecipeError(
            f"model.init: {recipe.model.init} is a {start.family} with other settings than this recipe's "
            f"{recipe.model.preset}{known}; weights start a run of their own network only, or of one with more blocks"
        )
    model.load_state_dict(state)
    return model


def _as_gray(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a colour network for one channel: the mean of what it makes of a photo whose channels are equal."""
    gray = dict(state)
    gray["first.weight"] = state["first.weight"].sum(1, keepdim=True)
    for name in ("last.weight", "last.bias"):
        if name in state:
            gray[name] = state[name].mean(0, keepdim=True)
    return gray


def _is_deeper(deep: KBNetSConfig, shallow: KBNetSConfig) -> bool:
    """Whether the two differ in their numbers of blocks only, and `deep` has at least as many everywhere."""
    counts = [(*c.encoder_blocks, c.middle_blocks, *c.decoder_blocks) for c in (deep, shallow)]
    if len(counts[0]) != len(counts[1]):
        return False
    same = replace(
        shallow,
        encoder_blocks=deep.encoder_blocks,
        middle_blocks=deep.middle_blocks,
        decoder_blocks=deep.decoder_blocks,
    )
    return same == deep and all(d >= s for d, s in zip(*counts, strict=True))


def _deepened(state: dict[str, Tensor], model: KBNetS) -> dict[str, Tensor]:
    """Weights of a network with fewer blocks for this one, which then computes the same.

    The blocks that are new come last in their stage; with residual scales of zero they let everything pass, and learn
    from the first step on, since the gradient of a scale does not vanish with it.
    """
    deep = {
        name: torch.zeros_like(value) if name.endswith((".fusion_scale", ".ffn_scale")) else value
        for name, value in model.state_dict().items()
    }
    return deep | state


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
