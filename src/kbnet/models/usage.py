"""How weights are meant to be used: their task, and where the network takes averages over the image from.

Weights work best with the context that they were trained or measured with. kbnet's own files say so in their header. In
files of earlier versions, and in repositories of the Hugging Face Hub, a kbnet.json in the same folder does.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kbnet import files
from kbnet.errors import CheckpointError, InvalidInputError
from kbnet.models.catalogue import find, resolve

FILE = "kbnet.json"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"  # of a training run
HEADER = "usage"
"""Name of the entry in the header of kbnet's own weights files."""

_CONTEXTS = ("global", "local", "tile")
_MAX_WINDOW = 2**16


@dataclass(frozen=True)
class Usage:
    """How weights are meant to be used.

    Attributes:
        task: what they restore, one of `kbnet.models.TASKS`; empty if unknown.
        context: where averages over the image come from: "global", "local" or "tile".
        window: side of the local context's window in pixels, 1 to 65536.
    """

    task: str = ""
    context: str = "global"
    window: int = 64

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Usage":
        """Read what `to_json` wrote.

        Raises:
            InvalidInputError: a setting is missing or out of range, or the text isn't JSON.
        """
        try:
            found = json.loads(text)
            usage = cls(str(found["task"]), str(found["context"]), int(found["window"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidInputError("expected task, context and window as JSON") from error
        if usage.context not in _CONTEXTS or not 1 <= usage.window <= _MAX_WINDOW:
            raise InvalidInputError(
                f"expected the context {', '.join(_CONTEXTS[:-1])} or {_CONTEXTS[-1]} and a window from 1 to "
                f"{_MAX_WINDOW}, got {usage}"
            )
        return usage


def usage_of(model: str | Path) -> Usage | None:
    """Return how included weights or a weights file are meant to be used. None if the file doesn't say.

    Raises:
        UnknownModelError: there is no such model or file.
        CheckpointError: the file's header or kbnet.json is damaged.
    """
    if (entry := find(str(model))) is not None:
        return Usage(entry.task, entry.context, entry.window)
    return usage_in(resolve(model))


def usage_in(weights: Path) -> Usage | None:
    """Return what the header of a weights file says, or else the kbnet.json next to it. None if neither does.

    kbnet.json holds only for model.safetensors and best.safetensors, since any other file could have been copied there.

    Raises:
        CheckpointError: the file's header or kbnet.json is damaged.
    """
    try:
        with safe_open(weights, framework="np") as file:
            text = (file.metadata() or {}).get(HEADER)
    except (SafetensorError, OSError, UnicodeDecodeError):
        text = None  # another format, or damaged: reading the weights says so
    if text is None:
        return usage_beside(weights)
    try:
        return Usage.from_json(text)
    except InvalidInputError as error:
        raise CheckpointError(f"{weights}: invalid usage in the header: {error}") from error


def usage_beside(weights: Path) -> Usage | None:
    """Read the kbnet.json next to a weights file, if it holds for it.

    Raises:
        CheckpointError: kbnet.json is damaged.
    """
    path = weights.with_name(FILE)
    if weights.name not in (WEIGHTS, BEST) or not path.is_file():
        return None
    try:
        return Usage.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # InvalidInputError and UnicodeDecodeError too
        raise CheckpointError(f"{path} is damaged ({error}); download it again") from error


def write_usage(usage: Usage, folder: Path) -> None:
    """Write a folder's kbnet.json, which holds for its model.safetensors and best.safetensors."""
    files.write((usage.to_json() + "\n").encode(), folder / FILE, overwrite=True)
