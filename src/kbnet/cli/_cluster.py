"""`kbnet restore --engine ray`: the same command, its pictures shared out among workers."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kbnet.cli._pipes import PIPE
from kbnet.cli._signals import Stopped
from kbnet.cli._terminal import complain, message_console
from kbnet.errors import InvalidInputError, KBNetError

if TYPE_CHECKING:
    from kbnet.cli._progress import FileProgress
    from kbnet.distributed import Outcome

ERRORS_NAME = "kbnet-errors.csv"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # kept here, since that room takes a second to import


def check_options(inputs: list[str], output: str | None, *, ray: bool, others: Mapping[str, object]) -> None:
    """Refuse what the engine cannot do, before anything is loaded; `others` are the options of the engine ray alone.

    Raises:
        InvalidInputError: pipes with ray, URLs or any of `others` without it.
    """
    names = [*inputs, output or ""]
    if ray and PIPE in names:
        raise InvalidInputError("expected files, folders or URLs with --engine ray, got a pipe; use --engine local")
    if not ray and (urls := [name for name in names if _URL.match(name)]):
        raise InvalidInputError(f"expected local files, got {urls[0]}; URLs are for --engine ray")
    if not ray and (given := [name for name, value in others.items() if value is not None]):
        raise InvalidInputError(f"{', '.join(given)} is for --engine ray; give that too, or leave it out")


def restore_on_ray(
    inputs: list[str],
    output: str | None,
    *,
    suffix: str,
    overwrite: bool,
    errors: str | None,
    settings: dict[str, Any],
    report: "Callable[[str, str, Outcome, FileProgress], None]",
    shown: bool,
) -> None:
    """Restore all inputs, reporting each as it is done, and write the table of errors if there are any.

    The table goes to `errors`, else into the output folder, else into the working folder. One of an earlier run there
    is replaced, by an empty one if all went well. `settings` are those of `kbnet.distributed.Settings`.
    """
    count = done = 0
    failed: list[Outcome] = []
    try:
        from kbnet.cli._progress import FileProgress
        from kbnet.distributed import Settings, error_table, plan_rows, restore_rows, storage

        rows = plan_rows(inputs, output, suffix=suffix, format=settings["format"], overwrite=overwrite)
        count = len(rows)
        place = errors or storage.join(_folder(output), ERRORS_NAME)
        try:
            with FileProgress(count, message_console(), shown=shown) as bar:
                for outcome in restore_rows(rows, Settings(**settings)):
                    if not outcome.ok:
                        failed.append(outcome)
                    done += outcome.ok
                    bar.finish()
                    report(outcome.row.input, outcome.row.output, outcome, bar)
        finally:
            # an interrupted job's failures are worth as much
            if failed or errors is not None or _is_there(place):
                storage.write(place, error_table(failed), overwrite=True)
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        so_far = f"{done} of {count} files done, nothing partial left" if count else "nothing was done"
        typer.echo(f"kbnet: {stopped.word}: {so_far}", err=True)
        raise typer.Exit(stopped.exit_code) from None
    if failed:
        complain(f"{len(failed)} of {count} files failed; they are listed in {place}")
        raise typer.Exit(1)


def _folder(output: str | None) -> str:
    from kbnet.imaging import is_supported

    if output is None:
        return "."
    if _URL.match(output) or Path(output).is_dir() or not is_supported(output):
        return output
    return str(Path(output).parent)


def _is_there(place: str) -> bool:
    from kbnet.distributed import storage

    try:
        storage.read(place)
    except (KBNetError, OSError):
        return False
    return True
