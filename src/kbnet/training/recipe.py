"""A training run as a validated file: every field documented, contradictions refused when it is read."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kbnet.errors import RecipeError
from kbnet.models import PRESETS, KBNetL, KBNetLConfig, Network, create_model, preset_config

Positive = Annotated[int, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """Which network is trained."""

    preset: str = Field(description="a name from `kbnet models`")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the preset to replace")


class DegradationSection(_Section):
    """How a clean patch becomes the network's input."""

    kind: Literal["gaussian"] = Field(description="white Gaussian noise, not clipped")
    sigma: tuple[float, float] = Field(
        description="range of the standard deviation on the scale of 255, drawn per patch"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "DegradationSection":
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma wants 0 <= low <= high, got {list(self.sigma)}")
        return self


class Phase(_Section):
    """A stretch of the run with one patch and batch size; small patches first is the published way."""

    steps: Positive = Field(description="optimiser steps")
    patch: Positive = Field(description="side of a patch, pixels")
    batch: Positive = Field(description="patches a step, over all processes together")


class OptimizerSection(_Section):
    """AdamW and its learning rate: warm-up, a constant stretch, a cosine down to the end of the run."""

    lr: float = Field(gt=0, description="learning rate of the constant stretch")
    final_lr: float = Field(default=1e-6, ge=0, description="learning rate at the last step")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear rise from zero")
    hold_steps: int = Field(default=0, ge=0, description="steps at `lr` after the warm-up; the rest is cosine")
    weight_decay: float = Field(default=1e-4, ge=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    clip_norm: float = Field(gt=0, description="bound of the gradient's norm over all parameters")


class RunSection(_Section):
    """Everything else."""

    seed: int = Field(default=0, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights, which are the ones kept")
    validation_every: int = Field(default=20, ge=2, description="every n-th photo is held out of training")
    validation_steps: Positive = Field(default=1000, description="steps between validations")
    checkpoint_minutes: float = Field(default=3.0, gt=0, description="time between checkpoints")


class Recipe(_Section):
    """A whole run. `Recipe.read(path)` reads one from a TOML file."""

    model: ModelSection
    degradation: DegradationSection
    phases: tuple[Phase, ...] = Field(min_length=1)
    optimizer: OptimizerSection
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.model.preset not in PRESETS:
            raise ValueError(f"model.preset wants one of {', '.join(PRESETS)}, got {self.model.preset!r}")
        # An InvalidInputError is a ValueError, so wrong settings become part of pydantic's report.
        config = preset_config(self.model.preset, **self.model.settings)
        multiple = KBNetL.input_multiple if isinstance(config, KBNetLConfig) else 1
        if odd := [phase.patch for phase in self.phases if phase.patch % multiple]:
            raise ValueError(f"patch wants a multiple of {multiple} for {self.model.preset}, got {odd[0]}")
        if self.optimizer.final_lr > self.optimizer.lr:
            raise ValueError(f"final_lr is {self.optimizer.final_lr}, more than the lr of {self.optimizer.lr}")
        fixed = self.optimizer.warmup_steps + self.optimizer.hold_steps
        if fixed > self.steps:
            raise ValueError(f"warmup_steps + hold_steps is {fixed}, more than the {self.steps} steps of all phases")
        return self

    @property
    def steps(self) -> int:
        """Length of the run."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that step `step` (from 0) belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def create_model(self) -> Network:
        """The network with random weights."""
        return create_model(self.model.preset, **self.model.settings)

    @classmethod
    def read(cls, path: Path, replace: dict[str, str] | None = None) -> "Recipe":
        """Read and check a recipe; `replace` maps dotted names to TOML values, as in {"optimizer.lr": "1e-3"}.

        Raises:
            RecipeError: unreadable, not TOML, an unknown or missing field, or a contradiction; one line.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            for name, value in (replace or {}).items():
                _set(table, name, value)
            return cls.model_validate(table)
        except OSError as error:
            raise RecipeError(f"expected a recipe file, {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not TOML: {error}") from None
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
            raise RecipeError(f"{path}: {found}") from None


def _set(table: dict[str, Any], dotted: str, text: str) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        inner: Any = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"expected the dotted name of a field outside lists, as in optimizer.lr; got {dotted!r}")
        table = inner
    try:
        table[name] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[name] = text  # a bare word: as the string it is
