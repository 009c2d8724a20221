"""Plans the output of each input before any worker starts, and checks that no two inputs share an output."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kbnet.distributed.storage import files_below, is_file, is_url, join
from kbnet.errors import InvalidInputError
from kbnet.imaging import SUPPORTED_SUFFIXES, is_supported
from kbnet.imaging.photo import printable
from kbnet.imaging.planning import format_of
from kbnet.inference.finding import PassedOver
from kbnet.inference.jobs import plan_jobs


@dataclass(frozen=True)
class Row:
    """One image to restore.

    Attributes:
        input: absolute path or URL of the image.
        output: absolute path or URL of the result.
        problem: why the row is skipped, in one line; None if it isn't skipped.
        overwrite: whether the result may replace an existing file.
        searched: whether the input was found in a folder or by a pattern, rather than named. Then it is skipped if its
            metadata marks it as a result, as for `kbnet.inference.jobs.Job`.
    """

    input: str
    output: str
    problem: str | None = None
    overwrite: bool = False
    searched: bool = False


def plan_rows(
    inputs: Sequence[str],
    output: str | None,
    *,
    suffix: str = "",
    format: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    passed_over: Callable[[PassedOver], None] = lambda one: None,
) -> list[Row]:
    """Plan the rows of a job.

    If all names are local, the rows are those of `kbnet.inference.jobs.plan_jobs`. With a URL among the names, inputs
    are files or folders, which are searched recursively for images by file name; the output is a folder in which the
    folder structure is reproduced.

    Args:
        inputs: paths or URLs of files and folders.
        output: path or URL of the output.
        suffix, format: as for `plan_jobs`.
        overwrite: whether results may replace existing files; otherwise an existing result is a row's problem.
        resume: whether the run continues an earlier one, whose log tells which existing results belong to it.
        passed_over: called with each file that is skipped.

    Raises:
        InvalidInputError: nothing to restore, no output folder, two results with the same name, or a result that would
            replace an input.
    """
    if not any(map(is_url, [*inputs, output or ""])):
        jobs = plan_jobs(inputs, output, suffix=suffix, format=format, overwrite=overwrite, passed_over=passed_over)
        rows = [
            Row(
                _absolute(job.input),
                _absolute(job.output),
                None if job.problem is None else str(job.problem),
                searched=job.searched,
            )
            for job in jobs
            if isinstance(job.input, Path) and job.output is not None
        ]
        there = {row.output for row in rows if not (overwrite or resume) and os.path.lexists(row.output)}
    else:
        if output is None:
            raise InvalidInputError("expected an output folder or URL for inputs from URLs, got none; add -o")
        folder = output if is_url(output) else _file_url(output)
        rows = [row for item in inputs for row in _rows_of(item, folder, suffix, format, passed_over)]
        there = set() if overwrite or resume else _existing(folder, rows)
        _refuse_clashes(rows)
    exists = "the file exists; choose another name or add --overwrite"
    rows = [replace(row, overwrite=overwrite) for row in rows]
    return [replace(r, problem=f"{printable(r.output)}: {exists}") if r.output in there else r for r in rows]


def _rows_of(
    item: str, folder: str, suffix: str, format: str | None, passed_over: Callable[[PassedOver], None]
) -> list[Row]:
    url = item if is_url(item) else _file_url(item)
    names = sorted(files_below(url))
    if is_file(url):
        return [Row(url, join(folder, _output_name(names[0], suffix, format)))]
    visible = [n for n in names if not any(part.startswith(".") for part in n.split("/"))]
    shown = [n for n in visible if is_supported(n)]
    for name in sorted(set(visible) - set(shown)):
        # judged by name, since opening each file would take as long as restoring it
        passed_over(PassedOver(join(url, name), "not named as an image", "other"))
    rows = [Row(join(url, name), join(folder, _output_name(name, suffix, format)), searched=True) for name in shown]
    # results of an earlier run in a subfolder are not inputs
    inside = folder.rstrip("/") + "/"
    if inside != url.rstrip("/") + "/":
        rows = [row for row in rows if not row.input.startswith(inside)]
    if not rows:
        endings = ", ".join(ending.removeprefix(".") for ending in SUPPORTED_SUFFIXES)
        raise InvalidInputError(f"expected a folder with images ({endings}), found none in {printable(item)}")
    return rows


def _output_name(name: str, suffix: str, format: str | None) -> str:
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending or not is_supported(name):
        stem, ending = name, format or "png"
    elif format is not None and format_of(ending) != format_of(format):
        ending = format
    return f"{stem}{suffix}.{ending}"


def _existing(folder: str, rows: list[Row]) -> set[str]:
    """Return the outputs that exist, with a single listing: checking each is slow if a check takes a round trip."""
    try:
        names = files_below(folder)
    except InvalidInputError:
        return set()  # the folder will be created
    return {join(folder, name) for name in names} & {row.output for row in rows}


def _refuse_clashes(rows: list[Row]) -> None:
    inputs = {row.input for row in rows}
    writers: dict[str, Row] = {}
    for row in rows:
        if other := writers.get(row.output):
            raise InvalidInputError(
                f"{printable(other.input)} and {printable(row.input)} would both be written to "
                f"{printable(row.output)}; restore them separately, or without --format"
            )
        if row.output in inputs:
            raise InvalidInputError(
                f"{printable(row.output)} is an input and would be overwritten by a result; choose another output"
            )
        writers[row.output] = row


def _absolute(path: Path) -> str:
    # workers have different working folders
    return os.path.abspath(path)  # noqa: PTH100  # Path.absolute keeps ".."


def _file_url(path: str) -> str:
    # not Path.as_uri, which percent-encodes: a URL's path is literal here
    return f"file://{Path(os.path.abspath(path)).as_posix()}"  # noqa: PTH100
