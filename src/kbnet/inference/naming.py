"""Where the result of each picture goes, settled before anything is read.

names, globs, folders --plan_jobs--> list of Job
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kbnet.errors import InvalidInputError, KBNetError, UnreadableImageError
from kbnet.imaging import SUPPORTED_SUFFIXES, is_supported
from kbnet.imaging.photo import printable
from kbnet.imaging.planning import format_of


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    Attributes:
        input: a file, or the bytes of one.
        output: the file to write, or None to have its bytes in the Result.
        problem: what is known to be wrong before reading, such as a folder that cannot be listed.
    """

    input: Path | bytes
    output: Path | None
    problem: KBNetError | None = None

    @property
    def name(self) -> str:
        """The input, as messages call it."""
        return "the image data" if isinstance(self.input, bytes) else printable(self.input)


@dataclass(frozen=True)
class _Found:
    path: Path
    root: Path  # the part of the path that is not mirrored under an output folder
    named: bool  # by the caller, rather than met on a walk
    problem: KBNetError | None = None


def plan_jobs(
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    suffix: str = "",
    format: str | None = None,
    overwrite: bool = False,
    may_be_empty: bool = False,
) -> list[Job]:
    """Which file is written where.

    A folder is searched for pictures by their names, all the way down, without hidden files; a pattern such as
    "photos/**/*.jpg" is expanded unless a file has just that name. Results of an earlier run are not taken for inputs:
    what lies in the output folder, and what another input would be written to.

    Args:
        inputs: files, folders and patterns.
        output: a file if there is one input and it is a file, otherwise (or if it is a folder, or ends in a separator)
            a folder, in which the trees of folders and patterns are mirrored; None to write beside each input.
        suffix: put between name and ending, as in photo-denoised.png.
        format: ending to give all results; by default each keeps its own, and PNG replaces those not handled.
        overwrite: whether a file may be replaced by its own result.
        may_be_empty: whether folders and patterns may have no pictures yet.

    Raises:
        InvalidInputError: a folder or pattern without pictures, two results of one name, a result in place of an input,
            or an argument that is none of these.

    Example:
        >>> plan_jobs(["cat.jpg"], "clean/", suffix="-denoised", format="png")[0].output
        PosixPath('clean/cat-denoised.png')
    """
    if not inputs:
        raise InvalidInputError("expected at least one picture, folder or pattern, got none")
    if Path(suffix).name != suffix and suffix:
        raise InvalidInputError(f"expected a suffix for file names without folders in it, got {suffix!r}")
    ending = _ending(format)
    folder, file = _target(inputs, output)
    if file is not None:
        if suffix:
            raise InvalidInputError(f"expected a suffix or the name of the result ({printable(file)}), got both")
        _check_name(file, format)
    found = [one for item in inputs for one in _expand(item, folder, may_be_empty=may_be_empty)]
    jobs: dict[tuple[str, str], Job] = {}
    walked = set()
    for one in found:
        if folder is None:
            parent = one.path.parent
        else:
            parent = folder / one.path.parent.relative_to(one.root)
        target = file or parent / _output_name(one.path, suffix, ending)
        # the same file reached twice is one job
        jobs.setdefault((_key(one.path), _key(target)), Job(one.path, target, one.problem))
        if not one.named:
            walked.add(one.path)
    return _without_clashes(list(jobs.values()), walked, overwrite)


def _target(inputs: Sequence[str | Path], output: str | Path | None) -> tuple[Path | None, Path | None]:
    """The output as (folder, None) or (None, file), or neither."""
    if output is None:
        return None, None
    path = Path(output)
    separators = tuple(filter(None, (os.sep, os.altsep)))
    several = len(inputs) > 1 or is_folder(Path(inputs[0])) or _is_pattern(inputs[0])
    if not (several or is_folder(path) or str(output).endswith(separators)):
        return None, path
    if os.path.lexists(path) and not is_folder(path):
        raise InvalidInputError(f"expected a folder for the results, got a file: {printable(path)}")
    return path, None


def _expand(item: str | Path, output: Path | None, *, may_be_empty: bool) -> list[_Found]:
    path = Path(item)
    if is_folder(path):
        found = _walk(path, path, output)
        if not found and not may_be_empty:
            raise InvalidInputError(f"expected a folder with pictures ({_endings()}), found none in {printable(path)}")
        return found
    if not _is_pattern(item):
        return [_Found(path, path.parent, named=True)]
    found = []
    root = _fixed_part(path)
    # glob.glob, for Path.glob takes no absolute patterns and shows hidden files
    for match in map(Path, sorted(glob.glob(str(item), recursive=True))):  # noqa: PTH207
        if is_folder(match):
            found += _walk(match, root, output)
        elif is_supported(match):
            found.append(_Found(match, root, named=False))
    if not found and not may_be_empty:
        raise InvalidInputError(f"expected a file or a pattern that fits pictures, found none for {printable(item)}")
    return found


def _walk(top: Path, root: Path, output: Path | None) -> list[_Found]:
    """The pictures below a folder by their names; hidden ones, such as the ._files of other systems, are passed by."""
    closed: list[OSError] = []
    found = []
    # an output folder inside the tree holds results; one that is the tree itself holds both
    results = None if output is None or _key(output) == _key(top) else _key(output)
    for folder, folders, files in os.walk(top, onerror=closed.append):
        here = Path(folder)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and _key(here / n) != results)
        names = sorted(name for name in files if not name.startswith(".") and is_supported(name))
        found += [_Found(here / name, root, named=False) for name in names]
    for error in closed:
        path = Path(error.filename)
        why = (error.strerror or str(error)).lower()
        problem = UnreadableImageError(f"{printable(path)}: cannot be read: {why}; check the folder's permissions")
        # its "file" is the folder itself: it has to have a place in the tree like any other
        found.append(_Found(path, path.parent if path == root else root, named=False, problem=problem))
    return found


def _without_clashes(jobs: list[Job], walked: set[Path], overwrite: bool) -> list[Job]:
    """Leave out earlier results met on a walk, and refuse jobs that would undo one another."""
    key = cache(_key)
    makers = {key(job.output): job for job in jobs if job.output is not None}
    kept = []
    for job in jobs:
        assert isinstance(job.input, Path)
        maker = makers.get(key(job.input))
        if maker is None or maker is job or job.input not in walked:
            kept.append(job)
    sources = {source: job for job in kept if isinstance(job.input, Path) for source in _names_of(job.input)}
    writers: dict[str, Job] = {}
    for job in kept:
        assert job.output is not None
        output, name = key(job.output), printable(job.output)
        if other := writers.get(output):
            raise InvalidInputError(
                f"{other.name} and {job.name} would both be written to {name}; "
                "restore them one by one, or without changing their endings"
            )
        writers[output] = job
        source = sources.get(output)
        if source is not None and source is not job:
            raise InvalidInputError(
                f"{job.name} would be written over {name}, which is an input too; change the suffix"
            )
        if source is not None and not overwrite:
            raise InvalidInputError(
                f"{name} would be replaced by its own result; choose another output or suffix, or give --overwrite"
            )
    return kept


def _output_name(path: Path, suffix: str, ending: str | None) -> str:
    own = path.suffix if is_supported(path) else ""
    stem = path.stem if own else path.name
    if ending is not None and (not own or format_of(own) != format_of(ending)):
        own = ending
    elif path.suffix and not own:
        own = ".png"
    return stem + suffix + own


def _ending(format: str | None) -> str | None:
    if format is None:
        return None
    ending = "." + format.lower().removeprefix(".")
    if ending not in SUPPORTED_SUFFIXES:
        raise InvalidInputError(f"expected an output format among {_endings()}, got {format!r}")
    return ending


def _check_name(file: Path, format: str | None) -> None:
    if is_supported(file):
        if format is not None and format_of(file.suffix) != format_of(format):
            raise InvalidInputError(
                f"{printable(file)}: the name says {format_of(file.suffix)} but the format asked for is {format}; "
                "change one of them"
            )
    elif file.suffix and format is None:
        raise InvalidInputError(f"{printable(file)}: expected a name ending in {_endings()}, or a --format")


def _endings() -> str:
    return ", ".join(ending.removeprefix(".") for ending in SUPPORTED_SUFFIXES)


def is_folder(path: Path) -> bool:
    """Whether it is one, as far as we may look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no permission to look, or a name with a null byte
        return False


def _is_pattern(item: str | Path) -> bool:
    try:
        return glob.has_magic(str(item)) and not os.path.lexists(item)
    except ValueError:
        return False


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _key(path: Path) -> str:
    """One text for every way to write the place of a directory entry; a link at the end is not followed."""
    # normalised first, so that "x/.." has a last part to keep
    absolute = Path(os.path.abspath(path))  # noqa: PTH100  # Path.absolute keeps ".."
    return os.path.normcase(Path(os.path.realpath(absolute.parent)) / absolute.name)


def _names_of(path: Path) -> tuple[str, str]:
    return _key(path), os.path.normcase(os.path.realpath(path))
