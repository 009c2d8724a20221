"""Jobs over picture files: where each result goes, settled before anything is read, then one outcome for each file.

    names, globs, folders --plan_jobs--> list of Job --run_jobs--> Result, Result, ...

Nothing is printed here, and a failure is a Result like any other: one bad file does not stop a folder.
"""

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kbnet.errors import InvalidInputError, KBNetError, OutputError, OutputExistsError, UnreadableImageError
from kbnet.imaging import (
    DEFAULT_MAX_PIXELS,
    SUPPORTED_SUFFIXES,
    Pixels,
    is_supported,
    plan_output,
    read_photo,
    write_photo,
)
from kbnet.imaging.photo import printable
from kbnet.imaging.planning import format_of

if TYPE_CHECKING:
    from kbnet.inference.streaming import Streamed

# How PyTorch says that memory ran out, where it has no exception of its own for that.
_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


class Restore(Protocol):
    """What is done to the pixels: a `Restorer`, or anything else that is called like one."""

    def __call__(self, image: Pixels, /, *, progress: Callable[[int, int], None]) -> Any: ...


class Stream(Protocol):
    """What restores a file into another: `kbnet.inference.streaming.restore_streamed` with its other arguments set."""

    def __call__(self, source: Path, target: Path, /, *, progress: Callable[[int, int], None]) -> "Streamed": ...


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
class Result:
    """What became of a job.

    Attributes:
        job: the job.
        seconds: spent on it, reading and writing included.
        error: one line naming the file, or None if all went well; then nothing was written.
        width, height: of the picture as shown, 0 if it could not be read.
        notes: one line for each thing that reading or writing had to change.
        data: the encoded result where the job names no output.
    """

    job: Job
    seconds: float = 0.0
    error: str | None = None
    width: int = 0
    height: int = 0
    notes: tuple[str, ...] = ()
    data: bytes | None = None

    @property
    def ok(self) -> bool:
        """Whether the picture was restored and written."""
        return self.error is None


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
    found = [one for item in inputs for one in _expand(item, folder)]
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


def run_jobs(
    jobs: Sequence[Job],
    restore: Restore,
    *,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Callable[[Job, int, int], None] = lambda job, done, total: None,
    stream: Stream | None = None,
) -> Iterator[Result]:
    """Restore the jobs in order, yielding a Result after each.

    Errors of kbnet, of the operating system and of memory become the Result's; anything else, an interruption above
    all, ends the iteration, with no partial file left.

    Args:
        jobs: from `plan_jobs`, or made by hand.
        restore: a `Restorer`.
        format: of the results, by default as their names say, else as the input's.
        quality: 1 to 100, of JPEG, WebP and AVIF.
        overwrite: whether existing files may be replaced.
        max_pixels: larger pictures are refused before decoding.
        progress: called with (job, 0, 0) when a job begins, then with (job, tiles done, tiles in all).
        stream: restores from file to file in place of reading, `restore` and writing; then `max_pixels` is its own.
    """
    for job in jobs:
        progress(job, 0, 0)
        start = time.monotonic()
        try:
            if stream is not None:
                result = _streamed(job, stream, progress)
            else:
                result = _run(job, restore, format, quality, overwrite, max_pixels, progress)
        except (KBNetError, OSError, MemoryError, RuntimeError) as error:
            result = Result(job, error=_explain(error, job))
        yield replace(result, seconds=time.monotonic() - start)


def _streamed(job: Job, stream: Stream, progress: Callable[[Job, int, int], None]) -> Result:
    if job.problem is not None:
        raise job.problem
    if isinstance(job.input, bytes) or job.output is None:
        raise InvalidInputError("expected files to restore by rows, got a pipe; leave --stream out")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    done = stream(job.input, job.output, progress=lambda count, total: progress(job, count, total))
    resumed = (f"went on after {done.resumed} of {done.tiles} tiles of an earlier run",) if done.resumed else ()
    return Result(job, width=done.width, height=done.height, notes=(*done.notes, *resumed))


def _run(
    job: Job,
    restore: Restore,
    format: str | None,
    quality: int | None,
    overwrite: bool,
    max_pixels: int,
    progress: Callable[[Job, int, int], None],
) -> Result:
    if job.problem is not None:
        raise job.problem
    if job.output is not None:
        _check_output(job.output, overwrite)
    photo = read_photo(job.input, max_pixels=max_pixels)
    chosen = format or (job.output.suffix if job.output is not None and is_supported(job.output) else photo.format)
    # Planned once before the work, for its notes and its refusals; writing plans again, with the restored pixels.
    _, lost = plan_output(photo, chosen)
    pixels = restore(photo.pixels, progress=lambda done, total: progress(job, done, total))
    if job.output is not None:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    data = write_photo(
        replace(photo, pixels=pixels), job.output, format=format_of(chosen), quality=quality, overwrite=overwrite
    )
    return Result(job, width=photo.width, height=photo.height, notes=(*photo.notes, *lost), data=data)


def _explain(error: Exception, job: Job) -> str:
    if isinstance(error, KBNetError):
        text = str(error)
    elif isinstance(error, MemoryError) or any(words in str(error) for words in _MEMORY_MESSAGES):
        text = "not enough memory; give a smaller --tile, or close other programs"
    elif isinstance(error, OSError):
        text = (error.strerror or str(error)).lower()
    else:
        raise error  # a mistake in the program, which no other file would be spared
    names = (job.name, "" if job.output is None else printable(job.output))
    return text if text.startswith(tuple(filter(None, names))) else f"{job.name}: {text}"


def _check_output(path: Path, overwrite: bool) -> None:
    """Refuse before the minutes of work what would be refused after them."""
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{printable(path)}: the file exists; choose another name or give --overwrite")
    # not made absolute: the folders above the working one may be closed to us
    parent = next(filter(os.path.lexists, path.parents), path.parent)
    if not _is_folder(parent):
        raise OutputError(f"{printable(path)}: cannot be written: {printable(parent)} is not a folder; choose another")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{printable(path)}: cannot be written: no permission to write in {printable(parent)}; choose another"
        )


def _target(inputs: Sequence[str | Path], output: str | Path | None) -> tuple[Path | None, Path | None]:
    """The output as (folder, None) or (None, file), or neither."""
    if output is None:
        return None, None
    path = Path(output)
    separators = tuple(filter(None, (os.sep, os.altsep)))
    several = len(inputs) > 1 or _is_folder(Path(inputs[0])) or _is_pattern(inputs[0])
    if not (several or _is_folder(path) or str(output).endswith(separators)):
        return None, path
    if os.path.lexists(path) and not _is_folder(path):
        raise InvalidInputError(f"expected a folder for the results, got a file: {printable(path)}")
    return path, None


def _expand(item: str | Path, output: Path | None) -> list[_Found]:
    path = Path(item)
    if _is_folder(path):
        found = _walk(path, path, output)
        if not found:
            raise InvalidInputError(f"expected a folder with pictures ({_endings()}), found none in {printable(path)}")
        return found
    if not _is_pattern(item):
        return [_Found(path, path.parent, named=True)]
    found = []
    root = _fixed_part(path)
    # glob.glob, for Path.glob takes no absolute patterns and shows hidden files
    for match in map(Path, sorted(glob.glob(str(item), recursive=True))):  # noqa: PTH207
        if _is_folder(match):
            found += _walk(match, root, output)
        elif is_supported(match):
            found.append(_Found(match, root, named=False))
    if not found:
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


def _is_folder(path: Path) -> bool:
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
