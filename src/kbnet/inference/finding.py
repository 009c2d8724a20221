"""Finding the files that names, folders and patterns refer to, and which files are skipped and why.

names, folders, globs --find--> Found, Found, ...      (every other file in a folder --> PassedOver)

Files in a folder are selected by name. If the name has no known ending, the file's first bytes decide. Every skipped
file is reported, except hidden files and the folder of results.
"""

import contextlib
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Literal

from kbnet import files
from kbnet.errors import ImageError, InvalidInputError, KBNetError, UnreadableImageError
from kbnet.imaging import SUPPORTED_SUFFIXES, is_supported
from kbnet.imaging.photo import printable
from kbnet.imaging.sniff import sniff
from kbnet.inference.places import Places, is_folder

RESULTS_MARK = ".kbnet-results"
"""Marks a folder of results inside a folder of images; later runs skip such a folder."""

Kind = Literal["picture", "result", "other"]


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that was found and skipped.

    Attributes:
        path: of the file or folder; a string for a URL.
        why: the reason, without the name.
        kind: "picture" for an unsupported image format, "result" for results of an earlier run, "other" for
            everything else: text, links to folders, pipes.
    """

    path: Path | str
    why: str
    kind: Kind


@dataclass(frozen=True)
class Found:
    """A file to restore.

    Attributes:
        path: of the file.
        root: the part of the path that is not mirrored in an output folder.
        named: whether the caller named the file, rather than a folder or pattern.
        format: determined from the content if the name has no supported ending, else "".
        problem: why it can't be read, if that is already known.
    """

    path: Path
    root: Path
    named: bool
    format: str = ""
    problem: KBNetError | None = None


@dataclass(frozen=True)
class Search:
    """Finds the files that names, folders and patterns refer to.

    Attributes:
        output: the folder for results, whose files are not inputs; None if there is none.
        places: compares paths.
        passed_over: called with each file or folder that is skipped.
        exclude: patterns of names or of paths below the searched folder, such as "*.tif" or "2019/raw/*", which are
            skipped. A folder that fits is not searched.
    """

    output: Path | None
    places: Places
    passed_over: Callable[[PassedOver], None]
    exclude: Sequence[str] = ()

    def find(self, item: str | Path, *, may_be_empty: bool = False) -> list[Found]:
        """The files that one name, folder or pattern refers to, sorted.

        Raises:
            InvalidInputError: a folder or pattern without images, unless `may_be_empty`.
        """
        path = Path(item)
        missed: list[PassedOver] = []
        if is_folder(path):
            found = list(self._walk(path, path, missed))
        elif is_pattern(item):
            found = list(self._match(str(item), missed))
        else:
            return [Found(path, path.parent, named=True, format=_format_by_content(path))]
        for one in missed:
            self.passed_over(one)
        if not found and not may_be_empty:
            what = (
                f"a folder with images ({endings()}), found none in"
                if is_folder(path)
                else "a pattern that matches images, found no match for"
            )
            raise InvalidInputError(f"expected {what} {printable(path)}{_summary(missed)}")
        return found

    def _is_excluded(self, path: Path, root: Path) -> bool:
        if not self.exclude:
            return False
        below = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        return any(fnmatch(name, pattern.rstrip("/")) for pattern in self.exclude for name in (path.name, below))

    def _match(self, pattern: str, missed: list[PassedOver]) -> Iterator[Found]:
        root = _fixed_part(Path(pattern))
        # glob.glob, since Path.glob rejects absolute patterns and includes hidden files
        for match in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207
            if self._is_excluded(match, root) or any(self._is_excluded(up, root) for up in _between(match, root)):
                continue
            if is_folder(match):
                if not self._holds_results(match, root, missed):
                    yield from self._walk(match, root, missed)
            elif not self._holds_results(match.parent, root, missed):
                yield from self._taken(match, root, missed)

    def _walk(self, folder: Path, root: Path, missed: list[PassedOver]) -> Iterator[Found]:
        """The images in a folder and its subfolders; hidden files, such as macOS's ._ files, are ignored."""
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            problem = UnreadableImageError(f"{printable(folder)}: can't be read: {why}; check the folder's permissions")
            # the folder itself takes the place of a file: it needs a position in the tree like any other
            yield Found(folder, folder.parent if folder == root else root, named=False, problem=problem)
            return
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if self._is_excluded(path, root):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and is_folder(path):
                missed.append(PassedOver(path, "a link to a folder; to restore it, name it in the command", "other"))
            elif entry.is_file(follow_symlinks=False) and is_supported(entry.name):
                yield Found(path, root, named=False)
            else:
                yield from self._taken(path, root, missed)
        for path in folders:
            if not self._is_results(path, missed):
                yield from self._walk(path, root, missed)

    def _taken(self, path: Path, root: Path, missed: list[PassedOver]) -> Iterator[Found]:
        try:
            state = path.stat()
        except OSError:
            if is_supported(path):  # a broken link: reading it reports the error
                yield Found(path, root, named=False)
            return
        if not stat.S_ISREG(state.st_mode):
            missed.append(PassedOver(path, "not a regular file; to restore it, name it in the command", "other"))
        elif is_supported(path):
            yield Found(path, root, named=False)
        else:
            format, why, kind = _content(os.fspath(path), state.st_size, state.st_mtime_ns)
            if format:
                yield Found(path, root, named=False, format=format)
            else:
                missed.append(PassedOver(path, why, kind))

    def _holds_results(self, folder: Path, root: Path, missed: list[PassedOver]) -> bool:
        """Whether the folder, or one between it and the root of a pattern, contains results."""
        while folder != root and folder != folder.parent:
            if self._is_results(folder, missed):
                return True
            folder = folder.parent
        return False

    def _is_results(self, folder: Path, missed: list[PassedOver]) -> bool:
        if self.output is not None and self.places.key(folder) == self.places.real(self.output):
            return True
        if not os.path.lexists(folder / RESULTS_MARK):
            return False
        why = f"a folder of results, marked by {RESULTS_MARK}; to restore it, name it in the command"
        if all(one.path != folder for one in missed):
            missed.append(PassedOver(folder, why, "result"))
        return True


def mark_results(folder: Path, inputs: Sequence[Path]) -> None:
    """Write RESULTS_MARK into a folder of results inside one of the input folders, so that later runs skip it.

    Does nothing for other folders, or if the file can't be written.
    """
    places = Places()
    key = places.real(folder)
    inside = any(is_folder(path) and key.startswith(places.real(path).rstrip(os.sep) + os.sep) for path in inputs)
    if not inside:
        return
    text = "Results of kbnet. When kbnet searches for images, it skips folders that contain this file.\n"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        files.write(text.encode(), folder / RESULTS_MARK)


def endings() -> str:
    """The supported file name endings, for messages."""
    return ", ".join(ending.removeprefix(".") for ending in SUPPORTED_SUFFIXES)


def is_pattern(item: str | Path) -> bool:
    """Whether it contains wildcards, and no file has exactly this name."""
    try:
        return glob.has_magic(str(item)) and not os.path.lexists(item)
    except ValueError:
        return False


def _between(path: Path, root: Path) -> list[Path]:
    """The folders between a path and the folder that contains it."""
    return [folder for folder in path.parents if folder != root and folder.is_relative_to(root)]


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _format_by_content(path: Path) -> str:
    """The format of a named file without a known ending, or "" if reading it might block."""
    if is_supported(path):
        return ""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return ""  # reading reports the error
    return _content(os.fspath(path), state.st_size, state.st_mtime_ns)[0] if stat.S_ISREG(state.st_mode) else ""


@lru_cache(maxsize=100_000)
def _content(path: str, size: int, modified: int) -> tuple[str, str, Kind]:
    """(format, "", "picture") from a file's first bytes, or ("", why not, kind).

    Size and modification time are part of the cache key, so that a changed file is read again.
    """
    name = printable(path)
    try:
        with Path(path).open("rb") as file:
            format = sniff(file, name).format
        return format, "", "picture"
    except UnreadableImageError:
        return "", "not an image", "other"
    except ImageError as error:
        return "", str(error).removeprefix(f"{name}: "), "picture"
    except OSError as error:
        return "", f"can't be read: {(error.strerror or str(error)).lower()}", "picture"


def _summary(missed: Sequence[PassedOver]) -> str:
    if not missed:
        return ""
    # the one most like an image is the most informative
    first = min(missed, key=lambda one: ("picture", "result", "other").index(one.kind))
    more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
    return f"; skipped: {printable(first.path)} ({first.why}){more}"
