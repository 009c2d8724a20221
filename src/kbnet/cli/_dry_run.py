"""`kbnet restore --dry-run`: prints what would happen to each file."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kbnet.cli._reports import passed_over_lines, shown
from kbnet.cli._restore_options import RestoreOptions
from kbnet.cli._terminal import complain, one_line, print_json

if TYPE_CHECKING:
    from kbnet.inference.finding import PassedOver
    from kbnet.inference.jobs import Job

_WORDS = {
    "restore": "would be restored",
    "replace": "would be replaced",
    "skip": "would be skipped",
    "fail": "would fail",
}


def print_plan(jobs: "Sequence[Job]", missed: "Sequence[PassedOver]", options: RestoreOptions) -> None:
    """Print the plan; nothing is read or written.

    Raises:
        typer.Exit: with code 1 if a file would fail.
    """
    counts: Counter[str] = Counter()
    for job in jobs:
        action, why = _action(job, options)
        counts[action] += 1
        source, target = shown(job.input), shown(job.output)
        notes = list(job.notes)
        if options.as_json:
            print_json({"input": source, "output": target, "action": action, "reason": why, "notes": notes})
        elif action == "fail":
            complain(why)
        elif not options.quiet:
            detail = "; ".join([*([why] if why else []), *notes])
            typer.echo(f"{source} → {target}{f'  ({detail})' if detail else ''}")
    if not options.quiet and not options.as_json:
        for line in passed_over_lines(missed):
            typer.echo(line, err=True)
        parts = [f"{counts[action]} {words}" for action, words in _WORDS.items() if counts[action]]
        typer.echo(f"kbnet: {', '.join(parts) or 'nothing would be done'}; this was a dry run", err=True)
    if counts["fail"]:
        raise typer.Exit(1)


def _action(job: "Job", options: RestoreOptions) -> tuple[str, str]:
    """What would happen to a job, and why, unless it is plainly restored."""
    from kbnet.inference.failures import check_output, explain
    from kbnet.inference.marking import is_marked

    assert job.output is not None
    exists = os.path.lexists(job.output)
    if job.searched and isinstance(job.input, Path) and is_marked(job.input):
        return "skip", "a result of an earlier run, by its metadata"
    if job.problem is None and exists and options.skip_existing:
        return "skip", "its result exists"
    try:
        if job.problem is not None:
            raise job.problem
        check_output(job.output, options.overwrite or job.overwrite)
    except Exception as error:
        return "fail", one_line(explain(error, job))
    return ("replace", "replaces the file") if exists else ("restore", "")
