"""Deciding whether two paths refer to the same place."""

import os
from pathlib import Path


class Places:
    """Compares paths, and resolves each folder only once.

    Folders that change later are not noticed; create a new instance for each plan.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def key(self, path: Path) -> str:
        """The same text for every spelling of a directory entry's path; a link at the end is not followed."""
        parent, name = os.path.split(path)
        if name in ("", ".", ".."):
            # normalized, so that "x/.." has a last part to keep
            parent, name = os.path.split(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps ".."
        real = self._folders.get(parent)
        if real is None:
            real = self._folders[parent] = os.path.realpath(parent)
        return os.path.normcase(os.path.join(real, name))  # noqa: PTH118  # called thousands of times: strings are faster

    def real(self, path: Path) -> str:
        """The same for a folder; a link at the end is followed."""
        return os.path.normcase(os.path.realpath(path))

    def names(self, path: Path) -> tuple[str, ...]:
        """The keys of a file: its directory entry, and the target if that is a link."""
        key = self.key(path)
        if os.path.islink(path):  # noqa: PTH114  # as above
            return key, os.path.normcase(os.path.realpath(path))
        return (key,)


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; False if it can't be accessed."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no permission, or a null byte in the name
        return False
