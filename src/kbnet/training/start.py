"""Starting points of a run: random weights, weights to fine-tune, or the checkpoint in its folder."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from kbnet.errors import ModelError, RecipeError, TrainingError
from kbnet.models import KBNetSConfig, usage
from kbnet.nn import KBNetS, Network, load_model
from kbnet.training import checkpoint, curves
from kbnet.training.complaints import complaints
from kbnet.training.recipe import Recipe

_log = logging.getLogger(__name__)


def initial_model(recipe: Recipe, folder: Path) -> Network:
    """Create the network of a recipe in training mode, with the weights of `model.init` or random ones.

    A gray network can start from the weights of a colour one, a KBNet-S from those of one with fewer blocks, and one
    for a sensor's planes, which are half as large as the photo, from the lower levels of one for photos. If the
    folder has a checkpoint, `model.init` isn't loaded, so a run also resumes if those weights no longer exist.

    Raises:
        RecipeError: the weights don't exist, or belong to a network with other settings.
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
    if isinstance(config, KBNetSConfig) and isinstance(model, KBNetS) and _is_for_a_sensor(model.config, config):
        state, config = _below_first(state, config, model)
    if isinstance(config, KBNetSConfig) and isinstance(model, KBNetS) and _is_deeper(model.config, config):
        state, config = _deepened(state, model), model.config
    if config != model.config:
        have, want = asdict(config), asdict(model.config)
        differing = [name for name in want if have.get(name) != want[name]]
        known = f" ({differing[0]} is {have[differing[0]]}, not {want[differing[0]]})" if differing[0] in have else ""
        raise RecipeError(
            f"model.init: {recipe.model.init} is a {start.family} whose settings differ from this recipe's "
            f"{recipe.model.preset}{known}; use weights of the same network, or of one with fewer blocks"
        )
    model.load_state_dict(state)
    return model


def results(folder: Path) -> list[str]:
    """Return the names of files in a folder that a new run there would overwrite or apply to its own weights.

    A run that ended before its first step leaves an empty file of curves, which doesn't count.
    """
    names = [checkpoint.NAME, checkpoint.PREVIOUS, checkpoint.BEST, usage.WEIGHTS, usage.BEST, usage.FILE]
    found = [name for name in names if (folder / name).exists()]
    lines = folder / curves.NAME
    return [*found, curves.NAME] if lines.exists() and lines.stat().st_size else found


def inherit_usage(recipe: Recipe, folder: Path) -> None:
    """Store the context and window of `model.init` in a new run's folder: its weights work best with the same.

    Without this, a model that started from weights with a local context would be used with the global one.
    """
    if recipe.model.init is None or (folder / checkpoint.NAME).exists():
        return
    if (found := usage.usage_of(recipe.model.init)) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        usage.write_usage(replace(found, task=""), folder)


def _as_gray(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the weights of a colour network to gray: it then returns the mean of the channels for a gray photo."""
    gray = dict(state)
    gray["first.weight"] = state["first.weight"].sum(1, keepdim=True)
    for name in ("last.weight", "last.bias"):
        if name in state:
            gray[name] = state[name].mean(0, keepdim=True)
    return gray


def _is_for_a_sensor(lower: KBNetSConfig, config: KBNetSConfig) -> bool:
    """Whether the first level of one network has the resolution and width of the second level of another."""
    return lower.channels > config.channels == 3 and lower.width == 2 * config.width and len(config.encoder_blocks) > 1


def _below_first(
    state: dict[str, Tensor], config: KBNetSConfig, model: KBNetS
) -> tuple[dict[str, Tensor], KBNetSConfig]:
    """Drop the first level of a network. The first and the last convolution are random, as in `model`."""
    lower = replace(
        config,
        channels=model.config.channels,
        width=2 * config.width,
        encoder_blocks=config.encoder_blocks[1:],
        decoder_blocks=config.decoder_blocks[:-1],
    )
    ends = {name: value for name, value in model.state_dict().items() if name.partition(".")[0] in ("first", "last")}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part in ("encoder", "downsample"):
            number, _, rest = rest.partition(".")
            if number != "0":
                found[f"{part}.{int(number) - 1}.{rest}"] = value
        elif part in ("decoder", "upsample"):
            if int(rest.partition(".")[0]) < len(lower.decoder_blocks):
                found[name] = value
        elif part not in ("first", "last"):
            found[name] = value
    return found | ends, lower


def _is_deeper(deep: KBNetSConfig, shallow: KBNetSConfig) -> bool:
    """Whether the two differ only in their numbers of blocks, and `deep` has at least as many everywhere."""
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
    """Extend the weights of a network with fewer blocks, so that this network computes the same.

    New blocks are the last of their stage. With residual scales of zero they are identities, but they learn from the
    first step on, because the gradient of a zero scale isn't zero.
    """
    deep = {
        name: torch.zeros_like(value) if name.endswith((".fusion_scale", ".ffn_scale")) else value
        for name, value in model.state_dict().items()
    }
    return deep | state


def resume(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """Load the checkpoint of a run's folder. Returns None if there is none.

    Raises:
        TrainingError: the checkpoint is damaged or of another program, or belongs to another network or optimizer.
    """
    state = checkpoint.load(folder)
    if state is None:
        return None
    checkpoint.check(state, folder / checkpoint.NAME)
    try:
        before = Recipe.model_validate_json(state["recipe"])
    except ValidationError as error:
        raise checkpoint.foreign(folder / checkpoint.NAME, f"recipe: {complaints(error, Recipe)}") from None
    if (before.model.preset, before.model.settings) != (recipe.model.preset, recipe.model.settings):
        raise TrainingError(
            f"{folder} contains a run of {before.model.preset}, whose settings differ from this recipe's "
            f"{recipe.model.preset}; use another folder"
        )
    if before.optimizer.kind != recipe.optimizer.kind:
        raise TrainingError(
            f"{folder} contains a run with {before.optimizer.kind}, but this recipe uses {recipe.optimizer.kind}; use "
            "another folder, and set model.init to that run's weights to continue from them"
        )
    if before != recipe:
        _log.warning("the recipe changed since the checkpoint at step %d; continuing with the new one", state["step"])
    return state
