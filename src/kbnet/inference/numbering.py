"""Numbers results whose names are taken: photo.jpg, photo-2.jpg, photo-3.jpg."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kbnet.imaging.photo import printable

if TYPE_CHECKING:
    from kbnet.inference.naming import Job


def numbered(jobs: "Sequence[Job]", key: Callable[[Path], str], *, existing: bool) -> "list[Job]":
    """Return the jobs, with a number in the names of results that would clash with other results or with inputs.

    The numbers depend only on the order of the jobs, so a repeated run gives the same names.

    Args:
        jobs: in order.
        key: returns the same text for the same place.
        existing: whether names of existing files are taken too.
    """
    taken = {key(job.input) for job in jobs if isinstance(job.input, Path)}
    result = []
    for job in jobs:
        wanted = job.output
        if wanted is None:
            result.append(job)
            continue
        output, number = wanted, 1
        own = key(job.input) if isinstance(job.input, Path) else None
        while _is_taken(output, key(output), own, taken, existing=existing):
            number += 1
            output = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        taken.add(key(output))
        if output != wanted:
            note = f"named {printable(output.name)}, since {printable(wanted.name)} is taken"
            job = replace(job, output=output, notes=(*job.notes, note))
        result.append(job)
    return result


def _is_taken(output: Path, place: str, own: str | None, taken: set[str], *, existing: bool) -> bool:
    if place == own:
        return existing  # with --overwrite, a result may replace its own input
    return place in taken or (existing and os.path.lexists(output))
