"""`kbnet restore --engine ray`: the same command, distributed among workers."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kbnet.cli._reports import passed_over_lines, report, says_when_stopped
from kbnet.cli._restore_options import URL, RestoreOptions
from kbnet.cli._terminal import complain, message_console
from kbnet.errors import KBNetError

if TYPE_CHECKING:
    from kbnet.distributed import Outcome, Settings
    from kbnet.inference.finding import PassedOver

ERRORS_NAME = "kbnet-errors.csv"


def restore_on_ray(options: RestoreOptions) -> None:
    """Restore all inputs, report each as it finishes, and write a table of errors if there are any.

    The table goes to --errors, otherwise to the output folder, otherwise to the working folder. A table from an
    earlier run is replaced, by an empty one if nothing failed.
    """
    count = done = 0
    failed: list[Outcome] = []
    missed: list[PassedOver] = []

    def so_far() -> str:
        return f"{done} of {count} files done, no partial files left" if count else "nothing was done"

    with says_when_stopped(so_far):
        from kbnet.cli._progress import FileProgress
        from kbnet.distributed import error_table, plan_rows, restore_rows, storage
        from kbnet.models import find

        entry = find(options.model_name, options.preset_name)
        task = "" if entry is None else entry.task
        rows = plan_rows(
            options.inputs,
            options.output,
            suffix=options.result_suffix,
            format=options.format,
            overwrite=options.overwrite,
            resume=options.log is not None,
            passed_over=missed.append,
        )
        count = len(rows)
        place = options.errors or storage.join(_folder(options.output), ERRORS_NAME)
        try:
            with FileProgress(count, message_console(), shown=options.shows_progress) as bar:
                for line in passed_over_lines(missed) if not options.quiet else ():
                    bar.say(line)
                for outcome in restore_rows(rows, _settings(options)):
                    if not outcome.ok:
                        failed.append(outcome)
                    done += outcome.ok
                    bar.finish()
                    report(outcome.row.input, outcome.row.output, outcome, bar, options, task)
        finally:
            # also when the job is interrupted
            if failed or options.errors is not None or _is_there(place):
                storage.write(place, error_table(failed), overwrite=True)
    if failed:
        complain(f"{len(failed)} of {count} files failed; see {place}")
        raise typer.Exit(1)


def _settings(options: RestoreOptions) -> "Settings":
    from kbnet.distributed import Settings
    from kbnet.imaging import DEFAULT_MAX_PIXELS

    return Settings(
        model=options.model_name,
        options=options.restorer_options(),
        **options.look,
        format=options.format,
        quality=options.quality,
        max_pixels=options.max_pixels or DEFAULT_MAX_PIXELS,
        keep_time=options.keep_time,
        drop_extras=options.drop_extras,
        same_quality=options.same_quality,
        mark=options.mark,
        workers=options.workers,
        threads=options.threads or 1,
        address=options.address,
        log=options.log,
    )


def _folder(output: str | None) -> str:
    from kbnet.imaging.photo import format_named

    if output is None:
        return "."
    if URL.match(output) or Path(output).is_dir() or format_named(output) is None:
        return output
    return str(Path(output).parent)


def _is_there(place: str) -> bool:
    from kbnet.distributed import storage

    try:
        storage.read(place)
    except (KBNetError, OSError):
        return False
    return True
