"""Choosing the output file of each image, before anything is read.

names, globs, folders --find--> Found --plan_jobs--> list of Job
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kbnet.errors import InvalidInputError, KBNetError, MissingExtraError
from kbnet.imaging import SUPPORTED_SUFFIXES, is_supported
from kbnet.imaging.photo import DNG, format_named, printable, writes_heic
from kbnet.imaging.planning import format_of
from kbnet.inference.finding import Found, PassedOver, Search, endings, is_pattern
from kbnet.inference.numbering import numbered
from kbnet.inference.places import Places, is_folder

RESULT_SUFFIXES = {
    "denoise": "-denoised",
    "derain": "-derained",
    "deblur": "-deblurred",
    "": "-restored",
}
"""Suffixes of results written beside their inputs, by the first word of the task; "" for weights without a task."""

_ENDINGS = {
    "jpeg": ".jpg",
    "tiff": ".tif",
    "png": ".png",
    "webp": ".webp",
    "avif": ".avif",
    "heic": ".avif",
    "raw": ".tif",
}
_ENDING_OF_A_NAME = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}")  # but not ".2023" in "scan.2023"


@dataclass(frozen=True)
class Job:
    """One image to restore.

    Attributes:
        input: a file, or the bytes of one.
        output: the file to write, or None to return its bytes in the Result.
        problem: an error that is known before reading, such as a folder that can't be listed, or a result that would
            replace another one.
        overwrite: whether this output may be replaced, independent of the run's setting.
        notes: remarks on this image only, such as a changed name of its result.
        searched: whether the input was found in a folder or by a pattern, rather than named. Then it is skipped if its
            metadata marks it as a result.
    """

    input: Path | bytes
    output: Path | None
    problem: KBNetError | None = None
    overwrite: bool = False
    notes: tuple[str, ...] = ()
    searched: bool = False

    @property
    def name(self) -> str:
        """The input's name in messages."""
        return "the image data" if isinstance(self.input, bytes) else printable(self.input)


def result_suffix(task: str) -> str:
    """The suffix of a task's results, as in photo-denoised.png; "-restored" for an unknown task.

    >>> result_suffix("denoise-gray"), result_suffix("")
    ('-denoised', '-restored')
    """
    return RESULT_SUFFIXES.get(task.partition("-")[0], RESULT_SUFFIXES[""])


def plan_jobs(
    inputs: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    suffix: str = "",
    format: str | None = None,
    overwrite: bool = False,
    may_be_empty: bool = False,
    exclude: Sequence[str] = (),
    number: Literal["no", "clashes", "all"] = "no",
    passed_over: Callable[[PassedOver], None] = lambda one: None,
) -> list[Job]:
    """Choose which file is written where.

    Folders are searched recursively for images, except hidden files: by name, and by content if the name has no known
    ending. A pattern such as "photos/**/*.jpg" is expanded unless a file has exactly that name.

    Results of earlier runs are not inputs: files in the output folder or in a folder marked as results, the outputs of
    other inputs, and files named as the result of another input. Files with the mark of results in their metadata are
    skipped once they are read.

    If two results would have the same name, they keep their inputs' endings, as in a.jpg.webp and a.png.webp. A job
    that would still replace another result or an input gets a problem; the other jobs are not affected.

    Args:
        inputs: files, folders and patterns.
        output: a file for a single input file; otherwise (or if it is a folder, or ends in a separator) a folder, in
            which the trees of folders and patterns are mirrored; None to write beside each input.
        suffix: inserted between name and ending, as in photo-denoised.png.
        format: ending of all results; by default each keeps its own, and PNG replaces formats that are not written.
        overwrite: whether a file may be replaced by its own result.
        may_be_empty: whether folders and patterns may contain no images yet.
        exclude: patterns of files and folders to skip, as for `kbnet.inference.finding.Search`.
        number: whether to add numbers, as in photo-2.jpg, to names that are taken by another result or by an input
            ("clashes"), or also by a file that exists ("all").
        passed_over: called with each file or folder that was found and skipped.

    Raises:
        InvalidInputError: a folder or pattern without images, an invalid argument, or a problem that all jobs share.

    Example:
        >>> plan_jobs(["cat.jpg"], "clean/", suffix="-denoised", format="png")[0].output
        PosixPath('clean/cat-denoised.png')
    """
    if not inputs:
        raise InvalidInputError("expected at least one file, folder or pattern, got none")
    if Path(suffix).name != suffix and suffix:
        raise InvalidInputError(f"expected a suffix without folders, got {suffix!r}")
    ending = _ending(format)
    folder, file = _target(inputs, output)
    if file is not None:
        if suffix:
            raise InvalidInputError(
                f"expected either a suffix or an output file, got both ({suffix} and {printable(file)})"
            )
        _check_name(file, format)
    places = Places()
    missed: list[PassedOver] = []
    search = Search(folder, places, missed.append, exclude)
    found = [one for item in inputs for one in search.find(item, may_be_empty=may_be_empty)]
    found = _without_results(found, suffix, places, missed.append)
    jobs: dict[tuple[str, str], tuple[Found, Job]] = {}
    for one in found:
        target = file or _parent(one, folder) / _output_name(one, suffix, ending)
        # a file that is found twice is one job
        key = (places.key(one.path), places.key(target))
        jobs.setdefault(key, (one, Job(one.path, target, one.problem, searched=not one.named)))
    planned = _told_apart(list(jobs.values()), suffix, places)
    own = _without_own_results(planned, places, missed.append)
    if number != "no":
        own = numbered(own, places.key, existing=number == "all")
    checked = _checked(own, overwrite, places)
    taken = {places.key(job.input) for job in checked if isinstance(job.input, Path)} if missed else set()
    for missing in missed:
        if places.key(Path(missing.path)) not in taken:  # in a folder, and also named by the caller
            passed_over(missing)
    if not checked and not may_be_empty:
        raise InvalidInputError(
            "expected photos, found only results of earlier runs; to restore one of them, name the file in the command"
        )
    problems = [job.problem for job in checked if isinstance(job.problem, InvalidInputError)]
    if problems and len(problems) == len(checked) and not may_be_empty:
        raise problems[0]
    return checked


def _target(inputs: Sequence[str | Path], output: str | Path | None) -> tuple[Path | None, Path | None]:
    """The output as (folder, None) or (None, file); (None, None) without one."""
    if output is None:
        return None, None
    path = Path(output)
    separators = tuple(filter(None, (os.sep, os.altsep)))
    several = len(inputs) > 1 or is_folder(Path(inputs[0])) or is_pattern(inputs[0])
    if not (several or is_folder(path) or str(output).endswith(separators)):
        return None, path
    if os.path.lexists(path) and not is_folder(path):
        raise InvalidInputError(f"expected a folder for the results, got a file: {printable(path)}")
    if several and format_named(path) and not is_folder(path) and not str(output).endswith(separators):
        raise InvalidInputError(
            f"expected a folder for the results of several photos, got {printable(path)}, whose name is that of a "
            f"file; use a folder, or {printable(path)}{os.sep} to create a folder with that name"
        )
    return path, None


def _parent(one: Found, folder: Path | None) -> Path:
    """The folder of a result; never outside `folder`, even if a pattern contains ".."."""
    if folder is None:
        return one.path.parent
    below = one.path.parent.parts[len(one.root.parts) :]
    inner = os.path.normpath(os.path.join(*below)) if below else "."  # noqa: PTH118  # pathlib keeps ".."
    return folder.joinpath(*(part for part in Path(inner).parts if part != ".."))


def _without_results(
    found: list[Found], suffix: str, places: Places, passed_over: Callable[[PassedOver], None]
) -> list[Found]:
    """Remove files named as the result of another input, and files in folders named as results of this task."""
    named_so = tuple(RESULT_SUFFIXES.values())
    if not any(_stem(one.path).endswith(named_so) for one in found):
        return found
    stems = {places.key(one.path.with_name(_stem(one.path))) for one in found}
    kept = []
    for one in found:
        stem = _stem(one.path)
        made_by = next((known for known in named_so if stem.endswith(known) and stem != known), None)
        original = made_by and one.path.with_name(stem.removesuffix(made_by))
        if original and places.key(original) in stems:
            why = f"named like a result of {printable(original)}; to restore it, name it in the command"
        elif made_by and made_by == suffix and not one.named:
            why = f"named like a result of an earlier run ({suffix}); to restore it, name it in the command"
        else:
            kept.append(one)
            continue
        passed_over(PassedOver(one.path, why, "result"))
    return kept


def _told_apart(planned: list[tuple[Found, Job]], suffix: str, places: Places) -> list[tuple[Found, Job]]:
    """Keep the inputs' endings in the names of results that would otherwise have the same name."""
    taken = Counter(places.key(job.output) for _, job in planned if job.output is not None)
    if all(count == 1 for count in taken.values()):
        return planned
    result = []
    for one, job in planned:
        output = job.output
        if output is not None and taken[places.key(output)] > 1:
            kept_its_own = one.path.suffix.lower() == output.suffix.lower()
            other = output.with_name(f"{one.path.name}{suffix}{output.suffix}")
            if not kept_its_own and places.key(other) not in taken:
                note = (
                    f"saved as {printable(other.name)}, because several results would be named {printable(output.name)}"
                )
                job = replace(job, output=other, notes=(note,))
        result.append((one, job))
    return result


def _without_own_results(
    planned: list[tuple[Found, Job]], places: Places, passed_over: Callable[[PassedOver], None]
) -> list[Job]:
    """Remove files found in a folder that are the output of another job."""
    makers = {places.key(job.output): job for _, job in planned if job.output is not None}
    kept = []
    for one, job in planned:
        maker = makers.get(places.key(one.path))
        if maker is None or maker is job or one.named:
            kept.append(job)
        else:
            passed_over(
                PassedOver(one.path, f"the result of {maker.name}; to restore it, name it in the command", "result")
            )
    return kept


def _checked(jobs: list[Job], overwrite: bool, places: Places) -> list[Job]:
    """Add a problem to jobs that would overwrite the results or inputs of others."""
    sources = {source: job for job in jobs if isinstance(job.input, Path) for source in places.names(job.input)}
    writers: dict[str, Job] = {}
    checked = []
    for job in jobs:
        assert job.output is not None
        output, name = places.key(job.output), printable(job.output)
        source, other = sources.get(output), writers.setdefault(output, job)
        problem = None
        if other is not job:
            problem = f"its result and that of {other.name} would both be written to {name}; restore them separately"
        elif source is not None and source is not job:
            problem = f"its result would replace {name}, which is also an input; choose another output or suffix"
        elif source is not None and not overwrite:
            problem = f"its result would replace {name}; choose another output or suffix, or add --overwrite"
        if problem is not None and job.problem is None:
            job = replace(job, problem=InvalidInputError(f"{job.name}: {problem}"))
        checked.append(job)
    return checked


def _stem(path: Path) -> str:
    return path.stem if is_supported(path) or _ENDING_OF_A_NAME.fullmatch(path.suffix) else path.name


def _output_name(one: Found, suffix: str, ending: str | None) -> str:
    path = one.path
    own = path.suffix if is_supported(path) else ""
    stem = path.stem if own else path.name
    if one.format and path.suffix:
        stem, own = _stem(path), _ENDINGS.get(one.format, ".png")
        own = ".heic" if one.format == "heic" and writes_heic() else own
    if ending is not None and (not own or format_of(own) != format_of(ending)):
        own = ending
    elif path.suffix and not own:
        own = ".png"
    return stem + suffix + own


def _ending(format: str | None) -> str | None:
    if format is None:
        return None
    ending = "." + format.lower().removeprefix(".")
    if ending not in (*SUPPORTED_SUFFIXES, f".{DNG}"):
        raise InvalidInputError(f"expected an output format, one of {endings()}, {DNG}; got {format!r}")
    if format_of(ending) == "heic" and not writes_heic():
        raise MissingExtraError("pillow-heif", "heic")
    return ending


def _check_name(file: Path, format: str | None) -> None:
    if (named := format_named(file)) is not None:
        if named == "heic" and not writes_heic():
            raise MissingExtraError("pillow-heif", "heic")
        if format is not None and format_of(file.suffix) != format_of(format):
            raise InvalidInputError(
                f"{printable(file)}: the file name says {format_of(file.suffix)}, but the format is {format}; "
                "change one of them"
            )
    elif file.suffix and format is None:
        raise InvalidInputError(f"{printable(file)}: expected a file name ending in {endings()}, or --format")
