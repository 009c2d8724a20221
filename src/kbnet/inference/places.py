"""When two ways to write a path mean one place."""

import os
from pathlib import Path


class Places:
    """Compares places, asking the file system once about each folder.

    A new one sees what has changed meanwhile; plans are made with one of their own.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def key(self, path: Path) -> str:
        """One text for every way to write the place of a directory entry; a link at the end is not followed."""
        parent, name = os.path.split(path)
        if name in ("", ".", ".."):
            # normalised, so that "x/.." has a last part to keep
            parent, name = os.path.split(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps ".."
        real = self._folders.get(parent)
        if real is None:
            real = self._folders[parent] = os.path.realpath(parent)
        return os.path.normcase(os.path.join(real, name))  # noqa: PTH118  # thousands of them: texts are quicker

    def real(self, path: Path) -> str:
        """The same for a folder, where a link at the end is followed too."""
        return os.path.normcase(os.path.realpath(path))

    def names(self, path: Path) -> tuple[str, ...]:
        """The keys of a file: of its entry, and of what that links to."""
        key = self.key(path)
        if os.path.islink(path):  # noqa: PTH114  # as above
            return key, os.path.normcase(os.path.realpath(path))
        return (key,)


def is_folder(path: Path) -> bool:
    """Whether it is one, as far as we may look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no permission to look, or a name with a null byte
        return False
