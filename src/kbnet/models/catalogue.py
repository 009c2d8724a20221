"""The included weights: what they are, where they come from, and how they score."""

import hashlib
import logging
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from kbnet.errors import CheckpointError, InvalidInputError, UnknownModelError
from kbnet.models.config import PRESETS
from kbnet.suggesting import did_you_mean

TASKS = ("denoise", "denoise-gaussian", "derain", "deblur")
"""Restoration tasks: `denoise` removes any real noise, `denoise-gaussian` is the synthetic task of the papers."""

PRESET_CHOICES = ("fast", "best")
"""Which weights of a task to use: the default ones, or the larger "hq" variant, if there is one."""

FORMER_NAMES = {
    "denoise-real": "denoise",
    "denoise-hq": "denoise-gaussian-hq",
    "denoise-free": "denoise",
    "kbnet-nano-denoise-real": "kbnet-nano-denoise",
    "kbnet-nano-denoise-free": "kbnet-nano-denoise",
    "kbnet-small-denoise": "kbnet-small-denoise-gaussian",
}
"""Model names of earlier releases and their current names. The old ones still work, with a warning."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueEntry:
    """One set of included weights.

    Attributes:
        name: name of the model, for `load_model`.
        task: what it restores, one of `TASKS`.
        default: whether the task's name also selects this entry.
        preset: name of the network's preset.
        file: file name in the package's `weights` folder.
        sha256: SHA-256 of that file in hexadecimal, checked when it is loaded.
        parameters: number of learned values.
        context: where averages over the image come from (see `kbnet.nn.context`): the choice that measured better.
        window: side of the local context's window in pixels.
        summary: one-line description.
        license: license of the weights.
        training_data: what the weights were trained on, and the terms of those photos.
        recipe: file in the repository that trains such weights.
        history: the runs that made these weights, if they differ from a single run of the current recipe.
        measured_by: command that measured `metrics`.
        variant: "hq" (better and slower), "gray" or "raw" (for camera raw files) for weights that aren't their task's
            default; TASK-VARIANT also selects them.
        gray: name of the model that restores gray images when this one is selected by task.
        raw: name of the model that restores camera raw files when this one is selected by task.
        credits: file in the package's `weights` folder that names each photo trained on, its author and its licence;
            empty if there is none.
        bfloat16: what products of bfloat16 do to results on CBSD68, measured by benchmarks/forms.py: the mean `loss` of
            PSNR in dB, and the largest `change` of a pixel, of 255; empty if not measured.
        metrics: measured scores by name, in dB unless the name says otherwise.
    """

    name: str
    task: str
    default: bool
    preset: str
    file: str
    sha256: str
    parameters: int
    context: str
    window: int
    summary: str
    license: str
    training_data: str
    recipe: str
    history: str
    measured_by: str
    variant: str = ""
    gray: str = ""
    raw: str = ""
    credits: str = ""
    bfloat16: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Path of the file in this installation."""
        return _weights_folder() / self.file

    @property
    def fast_dtype(self) -> str:
        """What dtype "auto" may multiply in: bfloat16 if it loses less than 0.01 dB and changes pixels by at most 2."""
        harmless = self.bfloat16 and self.bfloat16["loss"] < 0.01 and self.bfloat16["change"] <= 2
        return "bfloat16" if harmless else "float32"

    @property
    def credits_path(self) -> Path | None:
        """Path of the credits in this installation; None if there are none."""
        return _weights_folder() / self.credits if self.credits else None

    @property
    def alias(self) -> str:
        """Short name that also selects the model: its task, or TASK-VARIANT; its own name if it has neither."""
        if self.default:
            return self.task
        return f"{self.task}-{self.variant}" if self.variant else self.name


def _weights_folder() -> Path:
    return Path(str(resources.files("kbnet") / "weights"))


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Return all included weights by name."""
    table = tomllib.loads((_weights_folder() / "catalogue.toml").read_text(encoding="utf-8"))
    return {name: CatalogueEntry(name=name, **entry) for name, entry in table.items()}


def list_models(task: str | None = None) -> list[CatalogueEntry]:
    """List the included weights, optionally for one task.

    Raises:
        UnknownModelError: `task` isn't one of `TASKS`.

    Example:
        >>> import kbnet
        >>> [model.name for model in kbnet.list_models("denoise") if model.default]
        ['kbnet-nano-denoise']
    """
    if task is not None and task not in TASKS:
        raise UnknownModelError(f"expected a task ({', '.join(TASKS)}), got {task!r}{did_you_mean(task, TASKS)}")
    return [entry for entry in catalogue().values() if task in (None, entry.task)]


def find(name: str, preset: str = "fast") -> CatalogueEntry | None:
    """Find the included weights with a name or `alias`. Returns None if there are none.

    Args:
        name: a model, a task (its default weights), or a task's variant such as "deblur-hq". Former names also work.
        preset: "best" selects the larger weights of a task, if it has any. It applies only if `name` is a task.

    Raises:
        InvalidInputError: `preset` is neither "fast" nor "best".
    """
    if preset not in PRESET_CHOICES:
        raise InvalidInputError(f"expected a preset, fast or best; got {preset!r}")
    name = _current(name)
    if preset == "best" and name in TASKS:
        larger = [entry for entry in list_models(name) if entry.variant == "hq"]
        if larger:
            return larger[0]
    by_alias = (entry for entry in catalogue().values() if entry.alias == name)
    return catalogue().get(name) or next(by_alias, None)


@cache
def _current(name: str) -> str:
    """Map a former name to the current one; warns once per process."""
    if name in FORMER_NAMES:
        _log.warning("%s is now called %s", name, FORMER_NAMES[name])
    return FORMER_NAMES.get(name, name)


def resolve(name_or_path: str | Path, preset: str = "fast") -> Path:
    """Return the path of a weights file.

    Args:
        name_or_path: an included model's name or `alias`, a path, or a repository on the Hugging Face Hub
            ("user/repo"), which is downloaded if it isn't in the cache.
        preset: as for `find`.

    Raises:
        UnknownModelError: it is none of these, or a task or preset without included weights.
        CheckpointError: the checksum of an included file doesn't match the catalogue.
        DownloadError: the repository can't be fetched.
    """
    name = str(name_or_path)
    if entry := find(name, preset):
        with entry.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry.sha256:
            raise CheckpointError(f"{entry.path} differs from the included file (SHA-256 mismatch); reinstall kbnet")
        return entry.path
    path = Path(name_or_path)
    if path.is_file():
        return path
    from kbnet.models import hub  # imports this module

    if hub.is_repository(name):
        return hub.fetch(name)
    included = ", ".join(catalogue())
    if name in PRESETS:
        raise UnknownModelError(
            f"kbnet includes no weights for the network {name}; use a weights file or an included model: {included}"
        )
    if name in TASKS:
        raise UnknownModelError(
            f"kbnet includes no weights for the task {name!r}; use a weights file or an included model: {included}"
        )
    raise UnknownModelError(
        f"expected an included model ({included}), a task ({', '.join(TASKS)}) or the path of a weights file, "
        f"got {name!r}{did_you_mean(name, [*TASKS, *catalogue(), *PRESETS])}"
    )
