"""Recipes: a training run as a validated TOML file. Every field is documented; contradictions are rejected."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kbnet.data import LAYOUTS, Degradation
from kbnet.errors import RecipeError
from kbnet.models import PRESETS, KBNetLConfig, preset_config
from kbnet.nn import KBNetL, Network, create_model
from kbnet.suggesting import did_you_mean
from kbnet.training.complaints import complaints
from kbnet.training.degrading import PAIRS, build_degradation, pairs_layout

Positive = Annotated[int, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelSection(_Section):
    """The network to train, and its initial weights."""

    preset: str = Field(description="a name from `kbnet models`")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the preset to override")
    init: str | None = Field(
        default=None,
        description="initial weights: an included model, a task or a file, for the same network; a gray network also "
        "accepts weights of its colour version, a KBNet-S those of one with fewer blocks, and a network for a sensor's "
        "planes those of one for photos",
    )


class DegradationSection(BaseModel):
    """How a clean patch becomes the network's input. All fields other than `kind` belong to the degradation."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field(description="a degradation of kbnet.degradations, or pairs for images that are already degraded")

    @model_validator(mode="after")
    def _known(self) -> "DegradationSection":
        self.build()
        return self

    def build(self) -> Degradation | None:
        """Build the degradation. Returns None for pairs."""
        return build_degradation(self.kind, self.model_extra or {})


class SourceSection(_Section):
    """One source of training data, and its share of the patches."""

    weight: float = Field(default=1.0, gt=0, description="share of the patches, relative to the sum of all weights")
    folder: str | None = Field(
        default=None, min_length=1, description="subfolder of --data; also the NAME in --data NAME=FOLDER"
    )
    layout: str = Field(default="photos", description="layout of its files; a key of kbnet.data.LAYOUTS")
    degradation: DegradationSection | None = Field(
        default=None, description="degradation of clean photos; none for pairs"
    )
    drawn: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the patches cut from synthetic images (text, lines, flat areas and gradients) instead "
        "of photos, which prevents artefacts on such content; at least 30% of these patches stay clean",
    )
    margin: int | None = Field(
        default=None,
        ge=0,
        description="pixels around a patch that are degraded with it and then cropped; defaults to what the "
        "degradation needs; a smaller margin saves time",
    )
    scale: tuple[float, float] = Field(
        default=(1.0, 1.0),
        description="range of factors, at most 1, by which the photo is reduced before a patch is cut: reduced photos "
        "have finer detail; validation photos stay as they are",
    )
    jpeg_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the patches of photos that are first stored as JPEG with chroma of half resolution, as "
        "cameras store them; what comes back counts as clean; validation photos stay as they are",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "SourceSection":
        if self.layout not in LAYOUTS:
            raise ValueError(
                f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}{did_you_mean(self.layout, LAYOUTS)}"
            )
        wanted = self.layout == "photos"
        if wanted != (self.degradation is not None and self.degradation.kind != PAIRS):
            raise ValueError("the layout photos needs a degradation, and layouts of pairs take none")
        if self.drawn and not wanted:
            raise ValueError("drawn needs a degradation; pairs are already degraded")
        if self.margin and not wanted:
            raise ValueError("margin needs a degradation; pairs are already degraded")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, got {list(self.scale)}")
        if self.scale != (1, 1) and not wanted:
            raise ValueError("scale needs a degradation; reducing pairs would change their noise")
        if self.jpeg_share and not wanted:
            raise ValueError("jpeg_share needs a degradation; pairs are used as they are")
        return self

    @property
    def label(self) -> str:
        """Name of the source in validations and messages."""
        kind = self.layout if self.degradation is None else self.degradation.kind
        return self.folder or kind

    @property
    def channels(self) -> int | None:
        """Channels that a degradation with images of its own needs; None if the photos determine them."""
        found = getattr(None if self.degradation is None else self.degradation.build(), "channels", None)
        return None if found is None else int(found)

    @property
    def actual_margin(self) -> int:
        """The margin in pixels; the degradation's own if the recipe sets none."""
        if self.margin is not None or self.degradation is None:
            return self.margin or 0
        return int(getattr(self.degradation.build(), "margin", 0))


class Phase(_Section):
    """A part of the run with one patch and batch size. The published schedule starts with small patches."""

    steps: Positive = Field(description="optimizer steps")
    patch: Positive = Field(description="side of a patch in pixels")
    batch: Positive = Field(description="patches per optimizer step, all processes and parts together")
    accumulate: Positive = Field(
        default=1, description="number of parts into which each process splits its share of a batch, to save memory"
    )

    @model_validator(mode="after")
    def _divisible(self) -> "Phase":
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate ({self.accumulate}) must not exceed batch ({self.batch})")
        return self


class LossSection(_Section):
    """The loss, averaged over the patches of a batch."""

    kind: Literal["l1", "charbonnier", "psnr"] = Field(
        default="l1", description="mean |d|; mean sqrt(d^2 + epsilon^2); 10 log10 of each patch's mean d^2"
    )
    epsilon: float = Field(default=1e-3, gt=0, description="epsilon of the Charbonnier loss, on a scale of [0,1]")
    floor: float = Field(
        default=1e-8,
        gt=0,
        description="added to the mean d^2 of the PSNR loss, which gains nothing beyond it: 1e-8 is 80 dB, 1e-5 50 dB",
    )


class MixupSection(_Section):
    """Mixes patches with others of their batch, as published for denoising. Off if the section is missing."""

    alpha: float = Field(default=1.2, gt=0, description="lambda ~ Beta(alpha, alpha), drawn once per batch")
    probability: float = Field(default=0.5, gt=0, le=1, description="probability of mixing a batch")


class Cycle(_Section):
    """One cosine of the schedule "cycles"."""

    steps: Positive = Field(description="length of the cycle")
    lr: float | None = Field(default=None, gt=0, description="learning rate at its start; defaults to optimizer.lr")
    final_lr: float | None = Field(
        default=None, ge=0, description="learning rate at its end; defaults to optimizer.final_lr"
    )


class OptimizerSection(_Section):
    """The optimizer and its learning rate: warm-up, a constant phase, then decay until the end of the run."""

    kind: Literal["adamw", "muon"] = Field(
        default="adamw", description="AdamW; Muon for the weights of full convolutions, and AdamW for the rest"
    )
    lr: float = Field(gt=0, description="learning rate of the constant phase")
    final_lr: float = Field(default=1e-6, ge=0, description="learning rate at the last step")
    warmup_steps: int = Field(default=0, ge=0, description="steps of linear warm-up from zero")
    hold_steps: int = Field(default=0, ge=0, description="steps at `lr` after the warm-up")
    schedule: Literal["cosine", "linear", "1-sqrt", "cycles"] = Field(
        default="cosine",
        description="decay after the constant phase: half a cosine, linear, 1 - sqrt, or `cycles`",
    )
    cycles: tuple[Cycle, ...] = Field(
        default=(), description="consecutive cosines, from the end of the warm-up to the end of the run"
    )
    weight_decay: float = Field(
        default=1e-4, ge=0, description="decoupled weight decay; with Muon, not of scales and biases"
    )
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="betas of AdamW")
    clip_norm: float = Field(gt=0, description="maximum norm of the gradient over all parameters")

    @model_validator(mode="after")
    def _consistent(self) -> "OptimizerSection":
        if self.final_lr > self.lr:
            raise ValueError(f"final_lr ({self.final_lr}) must not exceed lr ({self.lr})")
        if (self.schedule == "cycles") != bool(self.cycles):
            raise ValueError("the schedule cycles needs a list of cycles, and other schedules take none")
        if self.cycles and self.hold_steps:
            raise ValueError("hold_steps doesn't work with the schedule cycles; add a cycle with final_lr = lr instead")
        for cycle in self.cycles:
            start, end = cycle.lr or self.lr, self.final_lr if cycle.final_lr is None else cycle.final_lr
            if end > start:
                raise ValueError(f"a cycle's final_lr ({end}) must not exceed its lr ({start})")
        return self


class RunSection(_Section):
    """All other settings."""

    # PyTorch's seeds have 64 bits, and the seed of a step is this one times a million plus the step.
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="seed of the initial weights, patches and degradations"
    )
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the averaged weights, which are the result")
    bfloat16: bool = Field(
        default=False, description="run the network under bfloat16 autocast; weights, loss and averages stay float32"
    )
    tf32: bool = Field(default=False, description="allow GPUs to multiply float32 in TF32, with 10 bits of mantissa")
    compile: bool = Field(
        default=False,
        description="compile the network with torch.compile: about a minute at the start, then faster on GPUs",
    )
    cuda_graph: Literal["auto", "off"] = Field(
        default="auto",
        description="on a single GPU, run steps as CUDA graphs, so that small networks don't wait for kernel launches",
    )
    validation_every: int = Field(default=20, ge=2, description="hold out every n-th photo or scene for validation")
    validation_steps: Positive = Field(default=1000, description="steps between validations")
    validation_photos: Positive = Field(default=64, description="maximum number of validation photos per source")
    log_steps: Positive = Field(default=10, description="steps between lines of metrics.jsonl")
    checkpoint_minutes: float = Field(default=3.0, gt=0, description="minutes between checkpoints")


class Recipe(_Section):
    """A whole training run. `Recipe.read(path)` reads it from a TOML file."""

    model: ModelSection
    degradation: DegradationSection | None = Field(default=None, description="degradation of the only source")
    sources: tuple[SourceSection, ...] = Field(default=(), description="a mixture of sources, instead of `degradation`")
    phases: tuple[Phase, ...] = Field(min_length=1, description="parts of the run, in order")
    loss: LossSection = LossSection()
    mixup: MixupSection | None = None
    optimizer: OptimizerSection
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.model.preset not in PRESETS:
            preset = self.model.preset
            near = did_you_mean(preset, PRESETS)
            raise ValueError(f"model.preset must be one of {', '.join(PRESETS)}; got {preset!r}{near}")
        # An InvalidInputError is a ValueError, so wrong settings become part of pydantic's report.
        config = preset_config(self.model.preset, **self.model.settings)
        multiple = KBNetL.input_multiple if isinstance(config, KBNetLConfig) else 1
        if odd := [phase.patch for phase in self.phases if phase.patch % multiple]:
            raise ValueError(f"patch must be a multiple of {multiple} for {self.model.preset}, got {odd[0]}")
        if (self.degradation is None) == (not self.sources):
            raise ValueError("expected either a degradation section or a list of sources")
        for source in self.all_sources:
            wanted = source.channels
            if config.channels != wanted if wanted else config.channels not in (1, 3):
                raise ValueError(
                    f"the network has {config.channels} channels, but {source.label} needs {wanted or '1 or 3'}"
                )
            if wanted and (odd := [phase.patch for phase in self.phases if phase.patch % 2]):
                raise ValueError(f"patch must be even for {source.label}, got {odd[0]}")
        labels = [source.label for source in self.sources]
        if twice := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(f"sources need different names; set folder for those named {', '.join(sorted(twice))}")
        o = self.optimizer
        fixed = o.warmup_steps + o.hold_steps
        if fixed > self.steps:
            raise ValueError(
                f"warmup_steps + hold_steps ({fixed}) must not exceed the {self.steps} steps of all phases"
            )
        if o.cycles and (found := fixed + sum(cycle.steps for cycle in o.cycles)) != self.steps:
            raise ValueError(f"warmup_steps and cycles add up to {found} steps, but the phases to {self.steps}")
        return self

    @property
    def all_sources(self) -> tuple[SourceSection, ...]:
        """The sources; a single one if the recipe has a degradation section."""
        if self.degradation is None:
            return self.sources
        if self.degradation.kind == PAIRS:
            return (SourceSection(layout=pairs_layout(self.degradation.model_extra or {})),)
        return (SourceSection(degradation=self.degradation),)

    @property
    def steps(self) -> int:
        """Length of the run in steps."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """Return the phase of a step, counted from 0."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def create_model(self) -> Network:
        """Create the network with random weights."""
        return create_model(self.model.preset, **self.model.settings)

    @classmethod
    def read(cls, path: Path, replace: dict[str, str] | None = None) -> "Recipe":
        """Read and validate a recipe.

        Args:
            path: path of the TOML file.
            replace: values to override: dotted names mapped to TOML values, such as {"optimizer.lr": "1e-3"}. Entries
                of lists are numbered from 0, as in {"phases.0.steps": "200"}.

        Raises:
            RecipeError: the file can't be read or isn't TOML, a field is unknown, missing or invalid, or fields
                contradict each other. The message is one line.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            for name, value in (replace or {}).items():
                _set(table, name, value)
            return cls.model_validate(table)
        except OSError as error:
            raise RecipeError(f"can't read the recipe {path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not valid TOML: {error}") from None
        except ValidationError as error:
            raise RecipeError(f"{path}: {complaints(error, cls)}") from None


def _set(table: dict[str, Any], dotted: str, text: str) -> None:
    """Override one value. Creates missing sections; numbers select entries of lists, counted from 0."""
    *sections, name = dotted.split(".")
    place: Any = table
    for depth, section in enumerate(sections):
        place = _inner(place, section, ".".join(sections[:depth]))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    if isinstance(place, list):
        place[_index(place, name, ".".join(sections))] = value
    elif isinstance(place, dict):
        place[name] = value
    else:
        raise RecipeError(f"{dotted}: {'.'.join(sections)} is a single value and has no field {name!r}")


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
    raise RecipeError(f"{path} is a list: expected an index from 0 to {last}, as in {path}.0; got {text!r}")
