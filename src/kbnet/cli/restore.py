"""`kbnet restore`: pictures in, restored pictures out."""

import sys
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kbnet.cli._cluster import check_options, restore_on_ray
from kbnet.cli._folders import Tally, batches, check_folder_options, open_ledger
from kbnet.cli._pipes import PIPE, check_pipes, plan_pipe, read_stdin
from kbnet.cli._signals import Stopped
from kbnet.cli._terminal import complain, message_console, one_line, print_json

if TYPE_CHECKING:
    from kbnet.cli._progress import FileProgress
    from kbnet.distributed import Outcome
    from kbnet.inference import Restorer
    from kbnet.inference.jobs import Job, Result, Stream

_SUFFIXES = {"derain": "-derained", "deblur": "-deblurred"}


class Task(StrEnum):
    """What to remove."""

    DENOISE = "denoise"
    DENOISE_GAUSSIAN = "denoise-gaussian"
    DERAIN = "derain"
    DEBLUR = "deblur"
    # names of earlier releases, which the catalogue translates
    DENOISE_REAL = "denoise-real"
    DENOISE_GRAY = "denoise-gray"


class ContextChoice(StrEnum):
    """Where averages over the image come from."""

    AUTO = "auto"
    GLOBAL = "global"
    LOCAL = "local"
    TILE = "tile"


class Engine(StrEnum):
    """What shares the work out."""

    LOCAL = "local"
    RAY = "ray"


def restore(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, folders (all the way down), quoted patterns, or - for stdin."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUTPUT",
            help="A file for one picture, otherwise a folder, made if needed, in which trees are mirrored; - for "
            "stdout. Without it results go beside their inputs, as in photo-denoised.png.",
        ),
    ] = None,
    task: Annotated[
        Task | None, typer.Option(help="What to remove, with its default model.", show_default="denoise")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A shipped model, a weights file, or a graph of `kbnet export` (.onnx, .xml), in place of --task's.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    tile: Annotated[
        str, typer.Option(metavar="auto|N|0", help="Side of the tiles in pixels; 0 for the whole picture at once.")
    ] = "auto",
    overlap: Annotated[int | None, typer.Option(min=0, help="Pixels that neighbouring tiles share.")] = None,
    context: Annotated[
        ContextChoice,
        typer.Option(help="Averages over the picture: shared by all tiles, around each pixel, or per tile."),
    ] = ContextChoice.AUTO,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average eight flips and turns: eight times the work.")
    ] = False,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="1 for the restored picture, 0 for the input, between for a blend.")
    ] = 1.0,
    suffix: Annotated[
        str | None, typer.Option(help="Goes between a result's name and ending.", show_default="-denoised and so on")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    format: Annotated[str | None, typer.Option(help="png, jpg, tif, webp or avif.", show_default="the input's")] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of JPEG, WebP and AVIF.", show_default="95, AVIF 90")
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Larger pictures are refused.", show_default="250000000, none with --stream"),
    ] = None,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Pictures of any size in little memory, band by band, into a tiled BigTIFF or PNG; the same command "
            "goes on with an interrupted one.",
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append a JSON line a file. The same command with the same log goes on after an interruption: files "
            "that it made, by their content, are not made again.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with files as they come into the folder, until Ctrl-C.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="One process, or workers by Ray: on this machine, or on a cluster at --address.")
    ] = Engine.LOCAL,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray: processes.", show_default="one for every --threads cores")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Ray: of each worker.", show_default="1")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray: of a cluster, such as auto or 10.0.0.1:6379.", show_default="none, start one"),
    ] = None,
    errors: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Ray: CSV table of what failed.", show_default="OUTPUT/kbnet-errors.csv"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a file on stdout, nothing else.")
    ] = False,
) -> None:
    """Restore pictures: remove noise, rain or blur.

    The result keeps the picture's format, bit depth, transparency, colour profile and EXIF data. No file is overwritten
    unless --overwrite is given, and a result appears whole or not at all. A picture that cannot be read is reported and
    the others go on.

    Exit code: 0 if all went well, 1 if a picture failed, 2 for a mistake in the command, 130 after Ctrl-C.
    """
    side = _parse_tile(tile)
    ray_options = {"--workers": workers, "--threads": threads, "--address": address, "--errors": errors}
    check_options(inputs, output, ray=engine is Engine.RAY, others=ray_options)
    to_pipe = output == PIPE or (PIPE in inputs and output is None)
    if stream and (to_pipe or PIPE in inputs or quality is not None):
        raise typer.BadParameter(
            "it goes from file to file, without loss: no pipe, no --quality", param_hint="'--stream'"
        )
    check_pipes(inputs, to_pipe=to_pipe, as_json=as_json, suffix=suffix)
    check_folder_options(
        log=log, watch=watch, one_file=to_pipe or PIPE in inputs, stream=stream, ray=engine is Engine.RAY
    )
    if engine is Engine.RAY:
        if stream:
            raise typer.BadParameter("it works in one process; leave out --engine ray", param_hint="'--stream'")
        restore_on_ray(
            inputs,
            output,
            suffix=suffix if suffix is not None else ("" if output is not None else _usual_suffix(task, model)),
            overwrite=overwrite,
            errors=errors,
            settings={
                "model": model or (task or Task.DENOISE).value,
                "options": {
                    "device": device,
                    "dtype": dtype,
                    "tile": side,
                    "overlap": overlap,
                    "context": context.value,
                    "ensemble": ensemble,
                },
                "strength": strength,
                "format": format,
                "quality": quality,
                "workers": workers,
                "threads": threads or 1,
                "address": address,
            }
            | ({} if max_pixels is None else {"max_pixels": max_pixels}),
            report=partial(_report, quiet=quiet, as_json=as_json),
            shown=sys.stderr.isatty() and not quiet and not (as_json and sys.stdout.isatty()),
        )
        return
    count, tally, ledger = 0, Tally(), None
    try:
        from kbnet.cli._progress import FileProgress
        from kbnet.imaging import DEFAULT_MAX_PIXELS
        from kbnet.inference import Restorer
        from kbnet.inference.jobs import plan_jobs, run_jobs

        limit = max_pixels or DEFAULT_MAX_PIXELS

        def plan() -> "list[Job]":
            if to_pipe or PIPE in inputs:
                return [plan_pipe(inputs[0], None if to_pipe else output, format)]
            ending = suffix if suffix is not None else ("" if output is not None else _usual_suffix(task, model))
            options: dict[str, Any] = {"suffix": ending, "format": format, "overwrite": overwrite}
            return plan_jobs(inputs, output, may_be_empty=watch, **options)

        jobs = plan()
        count = len(jobs)
        restorer = Restorer.from_pretrained(
            model or (task or Task.DENOISE).value,
            device=device,
            dtype=dtype,
            tile=side,
            overlap=overlap,
            context=context.value,
            ensemble=ensemble,
        )
        if getattr(restorer.network, "plain_tiles_only", False) and not quiet:
            typer.echo(
                "kbnet: note: this graph averages over each tile alone, so large pictures may show seams; "
                "export one with --context for tiles that fit together",
                err=True,
            )
        if PIPE in inputs:
            jobs = [replace(jobs[0], input=read_stdin(limit))]
        if log is not None:
            name = model or (task or Task.DENOISE).value
            ledger = open_ledger(log, name, restorer, strength=strength, format=format, quality=quality)
        # Two programs may not draw on one line: not with JSON on the same terminal.
        shown = sys.stderr.isatty() and not quiet and not (as_json and sys.stdout.isatty()) and not watch
        with FileProgress(count, message_console(), shown=shown) as bar:
            for batch in batches(plan, jobs, watch=watch):
                results = run_jobs(
                    batch,
                    partial(restorer, strength=strength),
                    format=format,
                    quality=quality,
                    overwrite=overwrite,
                    max_pixels=limit,
                    progress=lambda job, tiles, total: bar.update(_shown(job.input), tiles, total),
                    stream=_streaming(restorer, strength, overwrite, max_pixels) if stream else None,
                    ledger=ledger,
                )
                with closing(results):  # what is being written is finished before the log is closed
                    for result in results:
                        if result.data is not None:
                            sys.stdout.buffer.write(result.data)
                            sys.stdout.buffer.flush()
                        tally.count(result)
                        bar.finish()
                        names = _shown(result.job.input), _shown(result.job.output)
                        _report(*names, result, bar, quiet=quiet, as_json=as_json)
                        if ctx.obj:
                            # the exception was lost: those raised in callbacks from C, and in destructors, never arrive
                            raise Stopped(ctx.obj[0])
            if count > 1 and not quiet and not as_json:
                bar.say(f"kbnet: {tally.summary}")
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        finished = tally.done + tally.skipped
        so_far = f"{finished} of {count} files done, nothing partial left" if count else "nothing was done"
        typer.echo(f"kbnet: {stopped.word}: {tally.summary if watch else so_far}", err=True)
        raise typer.Exit(stopped.exit_code) from None
    finally:
        if ledger is not None:
            ledger.close()
    if tally.failed and count > 1:
        complain(f"{tally.failed} of {count} files failed")
    if tally.failed:
        raise typer.Exit(1)


def _streaming(restorer: "Restorer", strength: float, overwrite: bool, max_pixels: int | None) -> "Stream":
    from kbnet.inference.streaming import restore_streamed

    options: dict[str, Any] = {"strength": strength, "overwrite": overwrite, "max_pixels": max_pixels}
    return partial(restore_streamed, restorer, **options)


def _parse_tile(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected auto, 0 or a number of pixels, got {text!r}", param_hint="'--tile'"
        ) from None


def _usual_suffix(task: Task | None, model: str | None) -> str:
    from kbnet.models import find

    if model is not None and task is None:
        entry = find(model)
        if entry is None:
            return "-restored"
        task = Task(entry.task)
    return _SUFFIXES.get(task or Task.DENOISE, "-denoised")


def _shown(path: Path | bytes | None) -> str:
    return PIPE if path is None or isinstance(path, bytes) else str(path)


def _report(
    source: str, target: str, result: "Result | Outcome", bar: "FileProgress", *, quiet: bool, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "input": source,
                "output": target,
                "ok": result.ok,
                "error": result.error,
                "seconds": round(result.seconds, 3),
                "width": result.width,
                "height": result.height,
                "notes": list(result.notes),
            }
        )
    if result.error is not None:
        bar.say(f"kbnet: error: {one_line(result.error)}")
    elif not quiet and not as_json and not getattr(result, "skipped", False):
        bar.say(f"{source} → {target}  {result.width}×{result.height}, {result.seconds:.1f} s")
        for note in result.notes:
            bar.say(f"  note: {note}")
