"""`kbnet restore` in this process: one photo through a pipe, or files, once or as they arrive."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kbnet.cli._dry_run import print_plan
from kbnet.cli._folders import Tally, open_ledger
from kbnet.cli._pipes import plan_pipe, read_stdin
from kbnet.cli._reports import passed_over_lines, report, says_when_stopped, shown
from kbnet.cli._restore_options import RestoreOptions
from kbnet.cli._signals import Stopped
from kbnet.cli._streams import discard
from kbnet.cli._terminal import complain, message_console

if TYPE_CHECKING:
    from kbnet.cli._progress import FileProgress
    from kbnet.inference import Restorer
    from kbnet.inference.finding import PassedOver
    from kbnet.inference.jobs import FileRestorer, Job, Result
    from kbnet.inference.ledger import Ledger
    from kbnet.inference.watching import Watch


def restore_pipe(ctx: typer.Context, options: RestoreOptions) -> None:
    """Restore one photo from stdin, to stdout, or both."""
    from kbnet.cli._progress import FileProgress

    failed = False
    with says_when_stopped(lambda: "nothing was done"):
        job = plan_pipe(options.inputs[0], None if options.piped_out else options.output, options.format)
        restorer = _load(options)
        if options.piped_in:
            job = replace(job, input=read_stdin(_limit(options)))
        with FileProgress(1, message_console(), shown=options.shows_progress) as bar:
            for result in _results([job], restorer, options, bar):
                if result.data is not None:
                    _write_to_stdout(result.data)
                failed = not result.ok
                bar.finish()
                report(shown(result.job.input), shown(result.job.output), result, bar, options, restorer.task, restorer)
                _stop_if_asked(ctx)
    if failed:
        raise typer.Exit(1)


def restore_files(ctx: typer.Context, options: RestoreOptions) -> None:
    """Restore all files, or with --watch new files until stopped."""
    from kbnet.cli._progress import FileProgress

    work = _Work(options)
    with ExitStack() as stack:
        stack.enter_context(says_when_stopped(work.so_far))
        jobs = work.plan()
        work.count = len(jobs)
        if options.dry_run:
            print_plan(jobs, work.missed, options)
            return
        restorer = _load(options)
        ledger = None
        if options.log is not None:
            ledger = stack.enter_context(closing(open_ledger(options.log, restorer, options)))
        bar = stack.enter_context(FileProgress(work.count, message_console(), shown=options.shows_progress))
        work.tell_passed_over(bar)
        work.mark_output()
        for batch in work.batches(jobs, bar):
            with closing(_results(batch, restorer, options, bar, ledger)) as results:  # closed before the log is
                for result in results:
                    work.take(result)
                    bar.finish()
                    report(
                        shown(result.job.input), shown(result.job.output), result, bar, options, restorer.task, restorer
                    )
                    _stop_if_asked(ctx)
        if work.count > 1 and not options.quiet and not options.as_json:
            bar.say(f"kbnet: {work.tally.summary}")
    if work.tally.full:
        left = work.count - work.tally.total
        complain(f"the disk is full; {left} more files were not restored; free some space, and repeat the command")
    if work.tally.failed and work.count > 1:
        complain(f"{work.tally.failed} of {work.count} files failed")
    if work.tally.failed:
        raise typer.Exit(1)


@dataclass
class _Work:
    """The files of one command: planned, counted, skipped."""

    options: RestoreOptions
    count: int = 0
    tally: Tally = field(default_factory=Tally)
    missed: "list[PassedOver]" = field(default_factory=list)
    told: "set[PassedOver]" = field(default_factory=set)
    watch: "Watch | None" = None

    def plan(self) -> "list[Job]":
        """The jobs for all files that exist now."""
        from kbnet.inference.jobs import plan_jobs

        self.missed = []
        return plan_jobs(
            self.options.inputs,
            self.options.output,
            suffix=self.options.result_suffix,
            format=self.options.format,
            overwrite=self.options.overwrite,
            may_be_empty=self.options.watch,
            exclude=self.options.exclude or (),
            number=self.options.numbering(
                resumable=self.options.overwrite or self.options.watch or self.options.log is not None
            ),
            passed_over=self.missed.append,
        )

    def batches(self, jobs: "list[Job]", bar: "FileProgress") -> "Iterator[Sequence[Job]]":
        """The given jobs, or with --watch those of new files, until the disk is full."""
        if not self.options.watch:
            yield jobs
            return
        from kbnet.inference.watching import Watch

        def look() -> "list[Job]":
            jobs = self.plan()
            self.tell_passed_over(bar)
            return jobs

        self.watch, self.count = Watch(look, complain), 0
        for batch in self.watch.batches():
            self.count += len(batch)
            yield batch
            if self.tally.full:
                return

    def take(self, result: "Result") -> None:
        """Count a result."""
        self.tally.count(result)
        if self.watch is not None:
            self.watch.finished(result.job, made=result.made)

    def tell_passed_over(self, bar: "FileProgress") -> None:
        """Report skipped files, each once; with --watch only images, because new results keep appearing."""
        new = [one for one in self.missed if one not in self.told]
        self.told.update(new)
        if self.options.quiet:
            return
        for line in passed_over_lines([one for one in new if one.kind == "picture" or not self.options.watch]):
            bar.say(line)

    def mark_output(self) -> None:
        """Mark a folder of results inside the input folder, so that later runs recognize it."""
        from kbnet.inference.finding import mark_results

        if self.options.output is not None:
            mark_results(Path(self.options.output), [Path(name) for name in self.options.inputs])

    def so_far(self) -> str:
        """The message for when the command is stopped."""
        if self.options.watch:
            return self.tally.summary
        finished = self.tally.done + self.tally.skipped + self.tally.results
        return f"{finished} of {self.count} files done, no partial files left" if self.count else "nothing was done"


def _load(options: RestoreOptions) -> "Restorer":
    from kbnet.inference import Restorer

    restorer = Restorer.from_pretrained(options.model_name, **options.restorer_options())
    if getattr(restorer.runner, "plain_tiles_only", False) and not options.quiet:
        typer.echo(
            "kbnet: note: this graph averages over each tile separately, so large photos can show seams; to avoid "
            "them, export the model with --context",
            err=True,
        )
    return restorer


def _results(
    jobs: "Sequence[Job]",
    restorer: "Restorer",
    options: RestoreOptions,
    bar: "FileProgress",
    ledger: "Ledger | None" = None,
) -> Any:
    from kbnet.inference.developing import restore_raw
    from kbnet.inference.guard import outbreak_note
    from kbnet.inference.jobs import run_jobs
    from kbnet.inference.look import Look

    return run_jobs(
        jobs,
        partial(restorer, **options.look),
        format=options.format,
        quality=options.quality,
        overwrite=options.overwrite,
        drop_extras=options.drop_extras,
        keep_time=options.keep_time,
        max_pixels=_limit(options),
        progress=lambda job, tiles, total: bar.update(shown(job.input), tiles, total),
        stream=_streaming(restorer, options) if options.stream else None,
        ledger=ledger,
        examine=partial(outbreak_note, task=restorer.task, guarded=restorer.guard),
        same_quality=options.same_quality,
        skip_existing=options.skip_existing,
        sidecars=options.sidecars,
        mark=_mark(restorer, options),
        develop=partial(restore_raw, restorer, look=Look(**options.look)),
    )


def _streaming(restorer: "Restorer", options: RestoreOptions) -> "FileRestorer":
    from kbnet.inference.streaming import restore_streamed

    mark = _mark(restorer, options)
    return partial(restore_streamed, restorer, **options.look, max_pixels=options.max_pixels, mark=mark)


def _mark(restorer: "Restorer", options: RestoreOptions) -> str:
    return (restorer.task or "restore") if options.mark else ""


def _limit(options: RestoreOptions) -> int:
    from kbnet.imaging import DEFAULT_MAX_PIXELS

    return options.max_pixels or DEFAULT_MAX_PIXELS


def _write_to_stdout(data: bytes) -> None:
    from kbnet.errors import OutputError

    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)  # part of the result can still be buffered, and the interpreter would report it at exit
        raise OutputError(f"stdout: can't be written: {(error.strerror or str(error)).lower()}") from None


def _stop_if_asked(ctx: typer.Context) -> None:
    if ctx.obj:
        # the exception was lost: those raised in callbacks from C, and in destructors, never arrive
        raise Stopped(ctx.obj[0])
