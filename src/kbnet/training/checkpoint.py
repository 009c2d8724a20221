"""Checkpoints: a run's state in one file, written atomically and loaded without executing anything in it."""

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
    """Lock a run's folder, so that no two runs mix their checkpoints; see `kbnet.files.hold`.

    Raises:
        TrainingError: another process holds the lock.
    """
    return files.hold(folder, doing="training", otherwise="use another --run folder", error=TrainingError)


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint and keep the previous one as `PREVIOUS`.

    Raises:
        OutputError: the file can't be written, for example because the disk is full. The message names it, and the last
            checkpoint is unchanged.
    """
    files.make_folder(folder)
    with files.writing(folder / NAME, overwrite=True) as file:
        torch.save(state, file)
        file.flush()
        if (folder / NAME).exists():
            # A hard link and a rename: a complete `NAME` exists at every moment.
            files.also_as(folder / NAME, folder / PREVIOUS)


def keep_best(folder: Path) -> None:
    """Keep the newest checkpoint as `BEST` too: a hard link, or a copy on file systems without hard links."""
    files.also_as(folder / NAME, folder / BEST)


def load(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """Load the newest checkpoint of a folder, or the one with a given name. Returns None if there is none.

    Raises:
        TrainingError: the checkpoint is damaged.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise ValueError("not a checkpoint")
    except Exception as error:  # torch raises many types for damaged files
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}); replace it with {PREVIOUS}, or use another folder"
        ) from error
    return state


def check(state: dict[str, Any], path: Path) -> None:
    """Check that a loaded checkpoint has the parts of a run's state.

    Args:
        state: what `load` returned.
        path: the file, for the message.

    Raises:
        TrainingError: it has not, as it comes from another program or a future version.
    """
    for name, kind in {"recipe": str, "model": dict, "ema": dict, "optimizer": dict}.items():
        if not isinstance(state.get(name), kind):
            raise foreign(path, f"it has no {name}")


def foreign(path: Path, why: str) -> TrainingError:
    """Return the error for a checkpoint that this version can't continue from."""
    return TrainingError(
        f"{path} was written by another version of kbnet or another program ({why}); use another --run folder, and set "
        "model.init to that run's weights to continue from them"
    )
