"""Which picture is written where, settled before any worker starts: one output for each input, and none twice."""

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
    """One picture to restore.

    Attributes:
        input: an absolute path, or a URL.
        output: the same for its result.
        problem: why it will not be tried, in one line; None if it will.
        overwrite: whether the result may replace a file.
    """

    input: str
    output: str
    problem: str | None = None
    overwrite: bool = False


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
    """The rows of a job, as `kbnet.inference.jobs.plan_jobs` plans them where all names are local.

    With a URL among the names, an input is a file or a folder, searched all the way down for pictures by their names,
    and the output is a folder in which trees are mirrored. A result that exists is a row's problem unless `overwrite`,
    or `resume`, with which the log says whether it is one of this run. `passed_over` is called with each file that was
    met and not taken.

    Raises:
        InvalidInputError: nothing to restore, no output folder, two results of one name, or a result over an input.
    """
    if not any(map(is_url, [*inputs, output or ""])):
        jobs = plan_jobs(inputs, output, suffix=suffix, format=format, overwrite=overwrite, passed_over=passed_over)
        rows = [
            Row(_absolute(job.input), _absolute(job.output), None if job.problem is None else str(job.problem))
            for job in jobs
            if isinstance(job.input, Path) and job.output is not None
        ]
        there = {row.output for row in rows if not (overwrite or resume) and os.path.lexists(row.output)}
    else:
        if output is None:
            raise InvalidInputError("expected an output folder or URL for inputs given by URL; give -o")
        folder = output if is_url(output) else _file_url(output)
        rows = [row for item in inputs for row in _rows_of(item, folder, suffix, format, passed_over)]
        there = set() if overwrite or resume else _existing(folder, rows)
        _refuse_clashes(rows)
    exists = "the file exists; choose another name or give --overwrite"
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
        # to open each would take as long as to restore it
        passed_over(PassedOver(join(url, name), "not named as a picture", "other"))
    rows = [Row(join(url, name), join(folder, _output_name(name, suffix, format))) for name in shown]
    # results of an earlier run, in a folder inside this one, are no inputs
    inside = folder.rstrip("/") + "/"
    if inside != url.rstrip("/") + "/":
        rows = [row for row in rows if not row.input.startswith(inside)]
    if not rows:
        endings = ", ".join(ending.removeprefix(".") for ending in SUPPORTED_SUFFIXES)
        raise InvalidInputError(f"expected a folder with pictures ({endings}), found none in {printable(item)}")
    return rows


def _output_name(name: str, suffix: str, format: str | None) -> str:
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending or not is_supported(name):
        stem, ending = name, format or "png"
    elif format is not None and format_of(ending) != format_of(format):
        ending = format
    return f"{stem}{suffix}.{ending}"


def _existing(folder: str, rows: list[Row]) -> set[str]:
    """Outputs that are there already, by one listing: asking for each is slow where a question takes a round trip."""
    try:
        names = files_below(folder)
    except InvalidInputError:
        return set()  # the folder will be made
    return {join(folder, name) for name in names} & {row.output for row in rows}


def _refuse_clashes(rows: list[Row]) -> None:
    inputs = {row.input for row in rows}
    writers: dict[str, Row] = {}
    for row in rows:
        if other := writers.get(row.output):
            raise InvalidInputError(
                f"{printable(other.input)} and {printable(row.input)} would both be written to "
                f"{printable(row.output)}; restore them one by one, or without changing their endings"
            )
        if row.output in inputs:
            raise InvalidInputError(
                f"{printable(row.output)} is an input, and would be replaced by a result; choose another output"
            )
        writers[row.output] = row


def _absolute(path: Path) -> str:
    # workers have working folders of their own
    return os.path.abspath(path)  # noqa: PTH100  # Path.absolute keeps ".."


def _file_url(path: str) -> str:
    # not Path.as_uri, which percent-encodes: a URL's path is literal here
    return f"file://{Path(os.path.abspath(path)).as_posix()}"  # noqa: PTH100
