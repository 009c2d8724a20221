"""A training run as a validated file: every field documented, contradictions refused when it is read."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kbnet.data import LAYOUTS, Degradation
from kbnet.errors import RecipeError
from kbnet.models import PRESETS, KBNetL, KBNetLConfig, Network, create_model, preset_config
from kbnet.suggesting import did_you_mean
from kbnet.training.complaints import complaints
from kbnet.training.degrading import PAIRS, build_degradation, pairs_layout

Positive = Annotated[int, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """Which network is trained, and from where it starts."""

    preset: str = Field(description="a name from `kbnet models`")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the preset to replace")
    init: str | None = Field(
        default=None,
        description="weights to start from: a shipped model, a task or a file, of this very network, or of the same in "
        "colour for a gray one, or with fewer blocks for a KBNet-S",
    )


class DegradationSection(BaseModel):
    """How a clean patch becomes the network's input; the fields beside `kind` are those of the degradation."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="a degradation of kbnet.degradations, or pairs for pictures degraded already")

    @model_validator(mode="after")
    def _known(self) -> "DegradationSection":
        self.build()
        return self

    def build(self) -> Degradation | None:
        """The degradation; None for pairs."""
        return build_degradation(self.kind, self.model_extra or {})


class SourceSection(_Section):
    """One of several kinds of training data, and its share of the patches."""

    weight: float = Field(default=1.0, gt=0, description="its share of the patches, over the sum of all weights")
    folder: str | None = Field(
        default=None, min_length=1, description="folder below --data; also the NAME of --data NAME=FOLDER"
    )
    layout: str = Field(default="photos", description="how its files lie there; a key of kbnet.data.LAYOUTS")
    degradation: DegradationSection | None = Field(default=None, description="of clean photos; pairs have none")
    drawn: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the patches cut from pictures drawn by code (text, lines, flat and graded areas) instead "
        "of photos, which keeps networks from blowing up on such content; at least 30 % of these stay clean",
    )
    margin: int | None = Field(
        default=None,
        ge=0,
        description="pixels around a patch that are degraded with it and cut off; what the degradation asks for if "
        "left out, fewer save time",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SourceSection":
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"layout wants one of {', '.join(LAYOUTS)}, got {self.layout!r}{did_you_mean(self.layout, LAYOUTS)}"
            )
        wanted = self.layout == "photos"
        if wanted != (self.degradation is not None and self.degradation.kind != PAIRS):
            raise ValueError("layout photos wants a degradation, and the layouts of pairs want none")
        if self.drawn and not wanted:
            raise ValueError("drawn is for degradations, and pairs are degraded already")
        if self.margin and not wanted:
            raise ValueError("margin is for degradations, and pairs are degraded already")
        return self

    @property
    def label(self) -> str:
        """What it is called in validations and messages."""
        kind = self.layout if self.degradation is None else self.degradation.kind
        return self.folder or kind

    @property
    def actual_margin(self) -> int:
        """The margin in pixels, the degradation's own if the recipe says nothing."""
        if self.margin is not None or self.degradation is None:
            return self.margin or 0
        return int(getattr(self.degradation.build(), "margin", 0))


class Phase(_Section):
    """A stretch of the run with one patch and batch size; small patches first is the published way."""

    steps: Positive = Field(description="optimiser steps")
    patch: Positive = Field(description="side of a patch, pixels")
    batch: Positive = Field(description="patches of an optimiser step, all processes and parts together")
    accumulate: Positive = Field(
        default=1, description="parts into which each process divides its share of a batch, to use less memory"
    )

    @model_validator(mode="after")
    def _divisible(self) -> "Phase":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate is {self.accumulate}, more than the batch of {self.batch}")
        return self


class LossSection(_Section):
    """What is minimised, averaged over the patches of a batch."""

    kind: Literal["l1", "charbonnier", "psnr"] = Field(
        default="l1", description="mean |d|; mean sqrt(d^2 + epsilon^2); 10 log10 of each patch's mean d^2"
    )
    epsilon: float = Field(default=1e-3, gt=0, description="of the Charbonnier loss, on the scale of [0,1]")


class MixupSection(_Section):
    """Averaging of patches with others of their batch, as published for denoising; left out, there is none."""

    alpha: float = Field(default=1.2, gt=0, description="lambda ~ Beta(alpha, alpha), once a batch")
    probability: float = Field(default=0.5, gt=0, le=1, description="of mixing a batch at all")


class Cycle(_Section):
    """One of the cosines of the schedule "cycles"."""

    steps: Positive = Field(description="its length")
    lr: float | None = Field(default=None, gt=0, description="learning rate at its start; optimizer.lr if left out")
    final_lr: float | None = Field(default=None, ge=0, description="at its end; optimizer.final_lr if left out")


class OptimizerSection(_Section):
    """The optimiser and its learning rate: warm-up, a constant stretch, then down to the end of the run."""

    kind: Literal["adamw", "muon"] = Field(
        default="adamw", description="AdamW; Muon for the weights of full convolutions, and AdamW for the rest"
    )
    lr: float = Field(gt=0, description="learning rate of the constant stretch")
    final_lr: float = Field(default=1e-6, ge=0, description="learning rate at the last step")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear rise from zero")
    hold_steps: int = Field(default=0, ge=0, description="steps at `lr` after the warm-up")
    schedule: Literal["cosine", "linear", "1-sqrt", "cycles"] = Field(
        default="cosine",
        description="way down after the constant stretch: half a cosine, a line, 1 - sqrt of the way, or `cycles`",
    )
    cycles: tuple[Cycle, ...] = Field(default=(), description="cosines one after the other, from warm-up to end")
    weight_decay: float = Field(default=1e-4, ge=0)
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="of AdamW")
    clip_norm: float = Field(gt=0, description="bound of the gradient's norm over all parameters")

    @model_validator(mode="after")
    def _consistent(self) -> "OptimizerSection":
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr is {self.final_lr}, more than the lr of {self.lr}")
        if (self.schedule == "cycles") != bool(self.cycles):
            raise ValueError("the schedule cycles wants a list of cycles, and the others want none")
        if self.cycles and self.hold_steps:
            raise ValueError("hold_steps wants another schedule than cycles; a cycle with final_lr = lr is constant")
        for cycle in self.cycles:
            start, end = cycle.lr or self.lr, self.final_lr if cycle.final_lr is None else cycle.final_lr
            if end > start:
                raise ValueError(f"a cycle's final_lr is {end}, more than its lr of {start}")
        return self


class RunSection(_Section):
    """Everything else."""

    seed: int = Field(default=0, ge=0)
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights, which are the ones kept")
    bfloat16: bool = Field(default=False, description="autocast the network; weights, loss and averages stay float32")
    tf32: bool = Field(default=False, description="let a GPU multiply float32 in TF32, with 10 bits of mantissa")
    compile: bool = Field(
        default=False,
        description="compile the network by torch.compile: about a minute at the start, then faster on GPUs",
    )
    validation_every: int = Field(default=20, ge=2, description="every n-th photo or scene is held out of training")
    validation_steps: Positive = Field(default=1000, description="steps between validations")
    validation_photos: Positive = Field(default=64, description="validate on at most so many of each source")
    log_steps: Positive = Field(default=10, description="steps between lines of metrics.jsonl")
    checkpoint_minutes: float = Field(default=3.0, gt=0, description="time between checkpoints")


class Recipe(_Section):
    """A whole run. `Recipe.read(path)` reads one from a TOML file."""

    model: ModelSection
    degradation: DegradationSection | None = Field(default=None, description="of the only source")
    sources: tuple[SourceSection, ...] = Field(default=(), description="in the place of `degradation`: a mixture")
    phases: tuple[Phase, ...] = Field(min_length=1)
    loss: LossSection = LossSection()
    mixup: MixupSection | None = None
    optimizer: OptimizerSection
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.model.preset not in PRESETS:
            preset = self.model.preset
            near = did_you_mean(preset, PRESETS)
            raise ValueError(f"model.preset wants one of {', '.join(PRESETS)}, got {preset!r}{near}")
        # An InvalidInputError is a ValueError, so wrong settings become part of pydantic's report.
        config = preset_config(self.model.preset, **self.model.settings)
        multiple = KBNetL.input_multiple if isinstance(config, KBNetLConfig) else 1
        if odd := [phase.patch for phase in self.phases if phase.patch % multiple]:
            raise ValueError(f"patch wants a multiple of {multiple} for {self.model.preset}, got {odd[0]}")
        if (self.degradation is None) == (not self.sources):
            raise ValueError("expected a section degradation, or a list of sources, and not both")
        labels = [source.label for source in self.sources]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"sources want names of their own; give folder to those called {', '.join(sorted(twice))}")
        o = self.optimizer
        fixed = o.warmup_steps + o.hold_steps
        if fixed > self.steps:
            raise ValueError(f"warmup_steps + hold_steps is {fixed}, more than the {self.steps} steps of all phases")
        if o.cycles and (found := fixed + sum(cycle.steps for cycle in o.cycles)) != self.steps:
            raise ValueError(f"warmup_steps and the cycles are {found} steps, and all phases {self.steps}")
        return self

    @property
    def all_sources(self) -> tuple[SourceSection, ...]:
        """The sources; one made of the degradation if that is what the recipe gives."""
        if self.degradation is None:
            return self.sources
        if self.degradation.kind == PAIRS:
            return (SourceSection(layout=pairs_layout(self.degradation.model_extra or {})),)
        return (SourceSection(degradation=self.degradation),)

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

        Entries of lists are numbered from 0, as in {"phases.0.steps": "200"}.

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
            raise RecipeError(f"{path}: {complaints(error, cls)}") from None


def _set(table: dict[str, Any], dotted: str, text: str) -> None:
    """Replace one value; a section that is missing is made, an entry of a list is named by its number, from 0."""
    *sections, name = dotted.split(".")
    place: Any = table
    for depth, section in enumerate(sections):
        place = _inner(place, section, ".".join(sections[:depth]))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word: as the string it is
    if isinstance(place, list):
        place[_index(place, name, ".".join(sections))] = value
    elif isinstance(place, dict):
        place[name] = value
    else:
        raise RecipeError(f"{'.'.join(sections)} is a single value and has no field {name!r}, as in {dotted!r}")


def _inner(place: Any, section: str, path: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, section, path)]
    if isinstance(place, dict):
        return place.setdefault(section, {})
    raise RecipeError(f"{path} is a single value and has no field {section!r}")


def _index(entries: list[Any], text: str, path: str) -> int:
    if text.isdecimal() and int(text) < len(entries):
        return int(text)
    last = len(entries) - 1
    raise RecipeError(
        f"{path} is a list of {len(entries)}: expected a number from 0 to {last} after it, as in {path}.0; got {text!r}"
    )
