"""A run's state in one file: written whole or not at all, read without running anything in it."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from kbnet.errors import TrainingError

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` under a temporary name, then put it in place; the checkpoint before it is kept as well."""
    folder.mkdir(parents=True, exist_ok=True)
    # One name, as one process writes: what a killed run leaves is overwritten by the next.
    temporary = folder / f".{NAME}.part"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if (folder / NAME).exists():
            # A hard link and a rename: at every moment `NAME` is there and whole.
            (folder / PREVIOUS).unlink(missing_ok=True)
            try:
                os.link(folder / NAME, folder / PREVIOUS)
            except OSError:  # a file system without hard links
                shutil.copyfile(folder / NAME, folder / PREVIOUS)
        temporary.replace(folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of a folder, or None if it has none.

    Raises:
        TrainingError: there is one, but it is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a damaged file
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}); replace it by {PREVIOUS}, or start in another folder"
        ) from error
    return state
