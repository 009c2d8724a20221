"""A run's state in one file: written whole or not at all, read without running anything in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kbnet.errors import TrainingError

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"
BEST = "checkpoint-best.pt"


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which two runs would fill with each other's checkpoints; it is free again however this ends.

    Where the system or the file system has no locks nothing is held.

    Raises:
        TrainingError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)  # the folder itself: filelock, which torch brings, would leave a file in it
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another process is training in {folder}; wait for it, stop it, or give another --run folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(held)


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
            _link(folder / NAME, folder / PREVIOUS)
        temporary.replace(folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)


def keep_best(folder: Path) -> None:
    """Keep the newest checkpoint as the best one too; without hard links a copy is made, else it takes no space."""
    _link(folder / NAME, folder / BEST)


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
    except Exception as error:  # torch raises many kinds on a damaged file
        raise TrainingError(
            f"{path} is damaged ({type(error).__name__}); replace it by {PREVIOUS}, or start in another folder"
        ) from error
    return state


def _link(path: Path, other: Path) -> None:
    """Give a file a second name, in the place of whatever had it."""
    temporary = other.with_name(f".{other.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, temporary)
    temporary.replace(other)
    temporary.unlink(missing_ok=True)  # left where both were names of one file already
