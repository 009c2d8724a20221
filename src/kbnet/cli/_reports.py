"""What `kbnet restore` prints for each photo, for skipped files, and when it is stopped."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kbnet.cli._pipes import PIPE
from kbnet.cli._restore_options import RestoreOptions
from kbnet.cli._signals import Stopped
from kbnet.cli._terminal import one_line, print_json

if TYPE_CHECKING:
    from kbnet.cli._progress import FileProgress
    from kbnet.inference import Restorer
    from kbnet.inference.finding import PassedOver

_NAMES_SHOWN = 10
_OTHER_TASKS = {
    "denoise": "the photo may already be clean; for rain or blur, try --task derain or --task deblur",
    "denoise-gaussian": "for camera, phone or JPEG noise, try --task denoise",
    "derain": "for noise, try --task denoise",
    "deblur": "for noise, try --task denoise",
}


def report(
    source: str,
    target: str,
    result: Any,
    bar: "FileProgress",
    options: RestoreOptions,
    task: str = "",
    restorer: "Restorer | None" = None,
) -> None:
    """Print the outcome of one photo; `result` is a local Result or a Ray Outcome.

    `task` is the model's task, if known; it selects the advice for a photo that hardly changed. `restorer` is the local
    Restorer; None with Ray.
    """
    change = getattr(result, "change", None)
    notes = (*result.notes, *_unchanged(change, max(options.strength, options.color_strength or 0), task))
    if options.as_json:
        print_json(
            {
                "input": source,
                "output": target,
                "ok": result.ok,
                "error": result.error,
                "seconds": round(result.seconds, 3),
                "width": result.width,
                "height": result.height,
                "change": None if change is None else round(change, 6),
                **_computed(result, restorer),
                "notes": list(notes),
            }
        )
    if result.error is not None:
        bar.say(f"kbnet: error: {one_line(result.error)}")
    elif not options.quiet and not options.as_json and not getattr(result, "skipped", False):
        bar.say(f"{source} → {target}  {result.width}×{result.height}, {result.seconds:.1f} s")
        for note in notes:
            bar.say(f"  note: {note}")


def _computed(result: Any, restorer: "Restorer | None") -> dict[str, str | None]:
    """The weights that restored a photo, and what computed their products in which precision."""
    from kbnet.inference.identity import instruction_set

    if restorer is None or not result.ok or result.skipped:
        return dict.fromkeys(("model", "runtime", "dtype", "instruction_set"))
    undeveloped = restorer.raw if getattr(result, "from_raw", False) else None
    used = undeveloped or restorer.suited(result.channels)
    own = used.runner.runtime == "engine"
    return {
        "model": used.name,
        "runtime": used.runner.runtime,
        "dtype": used.dtype,
        "instruction_set": instruction_set() if own else None,
    }


def _unchanged(change: float | None, strength: float, task: str) -> Iterator[str]:
    from kbnet.inference.change import UNCHANGED

    if change is not None and strength > 0 and change / strength < UNCHANGED:
        advice = f"; {_OTHER_TASKS[task]}" if task in _OTHER_TASKS else ""
        yield f"hardly any change (mean {255 * change:.2f} of 255 levels){advice}"


def shown(path: Path | bytes | None) -> str:
    """A file's name in messages; "-" for a pipe."""
    return PIPE if path is None or isinstance(path, bytes) else str(path)


def passed_over_lines(found: "Sequence[PassedOver]") -> Iterator[str]:
    """Lines that name the skipped files, one per reason."""
    by_reason: dict[str, list[str]] = {}
    for one in found:
        by_reason.setdefault(one.why, []).append(one_line(str(one.path)))
    for why, names in by_reason.items():
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        yield f"kbnet: note: skipped: {', '.join(names[:_NAMES_SHOWN])}{more} ({why})"


@contextmanager
def says_when_stopped(so_far: Callable[[], str]) -> Iterator[None]:
    """If a signal stops the block, print what was done and exit with the signal's code."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        typer.echo(f"kbnet: {stopped.word}: {so_far()}", err=True)
        raise typer.Exit(stopped.exit_code) from None
