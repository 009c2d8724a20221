"""A run's state in one file: written whole or not at all, read without running anything in it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from kbnet import files
from kbnet.errors import TrainingError

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"
BEST = "checkpoint-best.pt"


def sole_writer(folder: Path) -> AbstractContextManager[None]:
    """Hold a run's folder, which two runs would fill with each other's checkpoints; see `kbnet.files.hold`.

    Raises:
        TrainingError: another process holds it.
    """
    return files.hold(folder, doing="training", otherwise="give another --run folder", error=TrainingError)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Put `state` in its place; the checkpoint before it is kept as well.

    Raises:
        OutputError: the disk is full, or the like; it names the file, and the checkpoint before it is still there.
    """
    files.make_folder(folder)
    with files.writing(folder / NAME, overwrite=True) as file:
        torch.save(state, file)
        file.flush()
        if (folder / NAME).exists():
            # A hard link and a rename: at every moment `NAME` is there and whole.
            files.also_as(folder / NAME, folder / PREVIOUS)


def keep_best(folder: Path) -> None:
    """Keep the newest checkpoint as the best one too; without hard links a copy is made, else it takes no space."""
    files.also_as(folder / NAME, folder / BEST)


def load(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """The newest checkpoint of a folder, or the one of this name; None if there is none.

    Raises:
        TrainingError: there is one, but it is damaged.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise ValueError("it holds something else")
    except Exception as error:  # torch raises many kinds on a damaged file
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}); replace it by {PREVIOUS}, or start in another folder"
        ) from error
    return state
