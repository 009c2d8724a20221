"""Which options of `kbnet restore` conflict."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from kbnet.cli._restore_options import URL, RestoreOptions
from kbnet.cli._streams import is_closed


@dataclass(frozen=True)
class Conflict:
    """A conflict: the option to name, when it applies, and the message."""

    option: str
    applies: Callable[[RestoreOptions], bool]
    words: str


def _not_on_ray(name: str) -> Conflict:
    option = f"'--{name.replace('_', '-')}'"
    return Conflict(
        option,
        lambda options: options.on_ray and bool(getattr(options, name)),
        "not available with --engine ray; leave one of them out",
    )


CONFLICTS = (
    Conflict("INPUT", lambda o: o.piped and len(o.inputs) > 1, "a pipe carries one photo; name exactly one input"),
    Conflict(
        "INPUT",
        lambda o: not o.on_ray and any(URL.match(name) for name in (*o.inputs, o.output or "")),
        "expected local files, got a URL; URLs need --engine ray",
    ),
    Conflict(
        "'--preset'",
        lambda o: o.preset is not None and o.model is not None,
        "conflicts with --model; leave one of them out",
    ),
    Conflict("'--guard'", lambda o: o.guard and o.task == "derain", "not available with --task derain; leave it out"),
    Conflict("'--suffix'", lambda o: o.piped and o.suffix is not None, "a pipe has no file name; leave out --suffix"),
    Conflict("OUTPUT", lambda o: o.piped_out and is_closed("stdout"), "stdout is closed; add -o FILE"),
    Conflict("INPUT", lambda o: o.piped_in and is_closed("stdin"), "stdin is closed; use a file name instead of -"),
    Conflict("'--json'", lambda o: o.piped_out and o.as_json, "stdout carries the photo; add -o FILE"),
    Conflict("'--stream'", lambda o: o.stream and o.piped, "needs files, not a pipe"),
    Conflict("'--stream'", lambda o: o.stream and o.quality is not None, "results are lossless; leave out --quality"),
    Conflict("'--stream'", lambda o: o.stream and o.on_ray, "runs in one process; leave out --engine ray"),
    Conflict("'--log'", lambda o: o.log is not None and o.piped, "needs files or folders, not a pipe"),
    Conflict("'--log'", lambda o: o.log is not None and o.stream, "--stream resumes without a log; leave out --log"),
    Conflict("'--watch'", lambda o: o.watch and o.piped, "needs files or folders, not a pipe"),
    Conflict("'--watch'", lambda o: o.watch and o.on_ray, "runs in one process; leave out --engine ray"),
    Conflict("'--watch'", lambda o: o.watch and o.has_fifo, "needs files or folders, not a pipe"),
    Conflict("'--stream'", lambda o: o.stream and o.has_fifo, "needs files, not a pipe"),
    Conflict("'--engine'", lambda o: o.on_ray and (o.piped or o.has_fifo), "Ray needs files or URLs, not a pipe"),
    Conflict("'--dry-run'", lambda o: o.dry_run and (o.piped or o.has_fifo), "needs files or folders, not a pipe"),
    Conflict("'--dry-run'", lambda o: o.dry_run and o.watch, "conflicts with --watch; leave one of them out"),
    Conflict("'--dry-run'", lambda o: o.dry_run and o.log is not None, "does not read the log; leave out --log"),
    Conflict("'--sidecars'", lambda o: o.sidecars and o.piped, "needs files or folders, not a pipe"),
    Conflict("'--skip-existing'", lambda o: o.skip_existing and o.piped, "needs files or folders, not a pipe"),
    Conflict("'--number'", lambda o: o.number and o.piped, "needs files or folders, not a pipe"),
    Conflict(
        "'--skip-existing'",
        lambda o: o.skip_existing and o.overwrite,
        "conflicts with --overwrite; leave one of them out",
    ),
    Conflict(
        "'--same-quality'",
        lambda o: o.same_quality and o.quality is not None,
        "conflicts with --quality; leave one of them out",
    ),
    *map(_not_on_ray, ("exclude", "skip_existing", "number", "dry_run", "sidecars")),
    Conflict("'--workers'", lambda o: not o.on_ray and o.workers is not None, "needs --engine ray"),
    Conflict("'--threads'", lambda o: not o.on_ray and o.threads is not None, "needs --engine ray"),
    Conflict("'--address'", lambda o: not o.on_ray and o.address is not None, "needs --engine ray"),
    Conflict("'--errors'", lambda o: not o.on_ray and o.errors is not None, "needs --engine ray"),
    Conflict(
        "INPUT",
        lambda o: o.piped_in and sys.stdin.isatty(),
        "stdin is a terminal; redirect a photo to it (< photo.png)",
    ),
    Conflict(
        "OUTPUT",
        lambda o: o.piped_out and sys.stdout.isatty(),
        "images are not written to a terminal; redirect stdout (> clean.png) or add -o FILE",
    ),
)
