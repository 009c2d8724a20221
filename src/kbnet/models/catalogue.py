"""The weights that ship in the package: what they are, where they come from, what they measured."""

import hashlib
import logging
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from kbnet.errors import CheckpointError, InvalidInputError, UnknownModelError
from kbnet.models.checkpoint import load_file
from kbnet.models.presets import PRESETS, Network
from kbnet.suggesting import did_you_mean

TASKS = ("denoise", "denoise-gaussian", "derain", "deblur")
"""What can be restored: `denoise` is for whatever noise a photo has, `denoise-gaussian` is the papers' task."""

PRESET_CHOICES = ("fast", "best")
"""Which weights of a task: its default ones, or the larger ones of the variant "hq" where they ship."""

FORMER_NAMES = {
    "denoise-real": "denoise",
    "denoise-gray": "denoise-gaussian-gray",
    "denoise-hq": "denoise-gaussian-hq",
    "kbnet-nano-denoise-real": "kbnet-nano-denoise",
    "kbnet-small-denoise": "kbnet-small-denoise-gaussian",
}
"""Names of earlier releases and what they are called now; they still work, with a warning."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueEntry:
    """One set of shipped weights.

    Attributes:
        name: by which `load_model` finds it.
        task: what it restores, one of `TASKS`; the entry marked `default` answers to the task's name too.
        preset: the network.
        file: name in the package's `weights` folder.
        sha256: of that file; checked at loading.
        parameters: number of learned values.
        context: where averages over the image come from, the better choice by measurement (`kbnet.nn.context`).
        window: side of the local context's window, pixels.
        summary: one line for people.
        license: of the weights.
        training_data: what they were trained on and the terms of those photographs.
        recipe: file in the repository that trains such weights.
        history: the runs that made these, where they were not one run of the recipe as it stands.
        measured_by: the command that measured `metrics`.
        variant: what sets weights apart that are not their task's default: "hq" (better and slower) or "gray"; they
            answer to TASK-VARIANT too.
        gray: model that restores gray images when this one is chosen by task; by name.
        metrics: measured figures by name, dB unless the name says otherwise.
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
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the file lies in this installation."""
        return _weights_folder() / self.file

    @property
    def alias(self) -> str:
        """The shorter name that it answers to: that of its task, or TASK-VARIANT; its own name if it has none."""
        if self.default:
            return self.task
        return f"{self.task}-{self.variant}" if self.variant else self.name


def _weights_folder() -> Path:
    return Path(str(resources.files("kbnet") / "weights"))


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """All shipped weights by name."""
    table = tomllib.loads((_weights_folder() / "catalogue.toml").read_text(encoding="utf-8"))
    return {name: CatalogueEntry(name=name, **entry) for name, entry in table.items()}


def list_models(task: str | None = None) -> list[CatalogueEntry]:
    """The shipped weights, of one task if it is given.

    Raises:
        UnknownModelError: there is no such task.

    Example:
        >>> import kbnet
        >>> [model.name for model in kbnet.list_models("denoise") if model.default]
        ['kbnet-nano-denoise']
    """
    if task is not None and task not in TASKS:
        raise UnknownModelError(f"expected a task, one of {', '.join(TASKS)}; got {task!r}{did_you_mean(task, TASKS)}")
    return [entry for entry in catalogue().values() if task in (None, entry.task)]


def find(name: str, preset: str = "fast") -> CatalogueEntry | None:
    """The shipped weights of that name or `alias`; None if there are none.

    Args:
        name: a model, a task (its default weights), or a task's variant ("deblur-hq"). Former names work too.
        preset: "best" for the larger weights of a task, where they ship. Names other than tasks have no choice.

    Raises:
        InvalidInputError: the preset is neither "fast" nor "best".
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
    """The name that a former one has now; says so once a process."""
    if name in FORMER_NAMES:
        _log.warning("%s is now called %s", name, FORMER_NAMES[name])
    return FORMER_NAMES.get(name, name)


def resolve(name_or_path: str | Path, preset: str = "fast") -> Path:
    """The weights file meant by a shipped model's name or `alias`, a path, or a repository of the hub.

    `preset` is as for `find`.

    Raises:
        UnknownModelError: it is none of these, or a task or preset without shipped weights.
        CheckpointError: a shipped file is not the one in the catalogue.
        DownloadError: a repository, user/repo, cannot be fetched.
    """
    name = str(name_or_path)
    if entry := find(name, preset):
        if hashlib.sha256(entry.path.read_bytes()).hexdigest() != entry.sha256:
            raise CheckpointError(f"{entry.path} is not the file that was shipped; install kbnet again")
        return entry.path
    path = Path(name_or_path)
    if path.is_file():
        return path
    from kbnet.models import hub  # which knows the catalogue

    if hub.is_repository(name):
        return hub.fetch(name)
    shipped = ", ".join(catalogue())
    if name in PRESETS:
        raise UnknownModelError(
            f"{name} is a network without shipped weights; give a weights file, or a shipped model: {shipped}"
        )
    if name in TASKS:
        raise UnknownModelError(f"no weights ship for the task {name!r} yet; give --model PATH. Shipped: {shipped}")
    raise UnknownModelError(
        f"expected a shipped model ({shipped}), a task ({', '.join(TASKS)}) or the path of a weights file; got {name!r}"
        f"{did_you_mean(name, [*TASKS, *catalogue(), *PRESETS])}"
    )


def load_model(name_or_path: str | Path) -> Network:
    """A network with weights, in eval mode, float32, on the CPU.

    Args:
        name_or_path: a shipped model, a task (its default model), a task's variant ("denoise-gaussian-hq"), our own
            .safetensors file, one of the authors' checkpoints (.pth, any of their three layouts), or a
            repository of the Hugging Face hub as "user/repo".

    Raises:
        UnknownModelError: there is no such model and no such file.
        CheckpointError: the file is damaged, hostile, or of another network.

    Example:
        >>> import kbnet
        >>> kbnet.load_model("denoise").family
        'kbnet-s'
    """
    return load_file(resolve(name_or_path))
