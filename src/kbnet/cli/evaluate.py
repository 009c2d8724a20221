"""`kbnet evaluate`: measures a model with a benchmark's protocol, one row per image."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kbnet.cli._restore_options import ContextChoice
from kbnet.cli._signals import Stopped
from kbnet.cli._terminal import complain, message_console, one_line, print_json, table_console

if TYPE_CHECKING:
    from kbnet.evaluation import Journal, Pictures, Row, Sample
    from kbnet.evaluation.report import Gallery
    from kbnet.evaluation.session import Session

# Options that don't affect the figures; results leave them out.
_SILENT = {"output", "report", "save", "submission", "resume", "overwrite", "quiet", "as_json", "list_them"}


def evaluate(
    ctx: typer.Context,
    benchmark: Annotated[str | None, typer.Option(metavar="NAME", help="Name from --list.", show_default=False)] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Data set folder; --list shows the layout.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Model or task name, or weights file.", show_default="set by the benchmark"
        ),
    ] = None,
    list_them: Annotated[
        bool, typer.Option("--list", help="List the benchmarks with their data and protocols.")
    ] = False,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            min=0,
            max=255,
            help="Standard deviation of the added noise, 0 to 255; can be repeated.",
            show_default="set by the benchmark",
        ),
    ] = None,
    kernels: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="Blur kernels for `blur`.", show_default="drawn with a fixed seed"),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Measure only the first N images.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="Write the results, one row per image."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows already in the -o file.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write an HTML report with all rows and the worst images.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the restored images and any generated inputs as PNG."),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write SubmitSrgb.csv or .mat for the `sidd-benchmark` server."),
    ] = None,
    lpips: Annotated[
        bool, typer.Option("--lpips", help="Also measure LPIPS (unverified); needs the `lpips` extra.")
    ] = False,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32 or bfloat16.")] = "auto",
    tile: Annotated[
        str,
        typer.Option(
            metavar="protocol|auto|N|0",
            help="protocol: as in the papers, mostly the full frame. Other values work as in `kbnet restore`.",
        ),
    ] = "protocol",
    context: Annotated[
        ContextChoice,
        typer.Option(
            help="Take averages over the whole image (global), a window around each pixel (local), or each tile."
        ),
    ] = ContextChoice.AUTO,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Average eight flipped and rotated passes.")] = False,
    strength: Annotated[float, typer.Option(metavar="X", min=0, max=1, help="0 = original, 1 = fully restored.")] = 1.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results, reports and images.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results without rows as JSON to stdout.")] = False,
) -> None:
    """Measure a model on a benchmark with the papers' protocol.

    The unrestored inputs are measured too. With -o, each row is saved as soon as it is measured; after an interruption,
    repeat the command with --resume. If an image can't be read, the others are still measured and the exit code is 1.
    Needs the `eval` extra.
    """
    if list_them:
        from kbnet.cli._evaluation_tables import list_benchmarks

        list_benchmarks(as_json=as_json)
        return
    if benchmark is None:
        raise typer.BadParameter("expected a benchmark; `kbnet evaluate --list` lists them", param_hint="'--benchmark'")
    side = _parse_tile(tile)

    from kbnet.evaluation import Journal
    from kbnet.evaluation.report import Gallery
    from kbnet.evaluation.session import open_session

    _check_outputs(benchmark, report=report, save=save, submission=submission, limit=limit, overwrite=overwrite)
    session = open_session(
        benchmark,
        data,
        model,
        sigmas=sigma or (),
        kernels=kernels,
        tile=side,
        device=device,
        dtype=dtype,
        context=context.value,
        ensemble=ensemble,
        strength=strength,
        lpips=lpips,
        limit=limit,
    )
    every = session.samples()
    _expect(session, every, quiet=quiet)
    if save is not None and not (overwrite or (resume and output)):
        _check_folder(save, session.chosen(every, ()))
    journal = None if output is None else Journal(output, session.settings(), resume=resume, overwrite=overwrite)
    samples = session.chosen(every, journal.rows if journal else ())
    gallery = None if report is None else Gallery()
    work = _Work(session, samples, journal, gallery, save)
    try:
        rows = work.run(ctx.obj or [], quiet=quiet)
    except KeyboardInterrupt as stop:
        stopped = stop if isinstance(stop, Stopped) else Stopped()
        advice = "continue with --resume" if journal else "nothing saved; use -o FILE.json to save results"
        done = f"{len(work.rows)} of {len(samples)} images measured"
        typer.echo(f"kbnet: {stopped.word}: {done}; {advice}", err=True)
        raise typer.Exit(stopped.exit_code) from None
    results = session.results(_command(ctx), rows, complete=len(samples) == len(every))
    if journal is not None:
        journal.finish(results)
    if report is not None and gallery is not None:
        _write_report(report, session, samples, rows, results, gallery, overwrite=overwrite)
    if submission is not None and save is not None:
        _submit(submission, save, rows, results, overwrite=overwrite)
    _tell(results, [path for path in (output, report, submission) if path], quiet=quiet, as_json=as_json)
    if failed := results["failed"]:
        more = " ..." if len(failed) > 5 else ""
        complain(f"{len(failed)} of {len(rows)} images failed: {', '.join(failed[:5])}{more}")
        raise typer.Exit(1)


class _Work:
    """The rows so far, and where each one goes."""

    def __init__(
        self,
        session: "Session",
        samples: list["Sample"],
        journal: "Journal | None",
        gallery: "Gallery | None",
        save: Path | None,
    ) -> None:
        self._session, self._samples, self._journal = session, samples, journal
        self._gallery, self._save = gallery, save
        known = {} if journal is None else journal.rows
        self.rows: dict[str, Row] = {s.name: known[s.name] for s in samples if s.name in known and not self._lacks(s)}

    def run(self, received: list[int], *, quiet: bool) -> list["Row"]:
        """Measure the missing rows and return all rows in order; stops when `received` has a signal."""
        from kbnet.cli._evaluation_tables import RowProgress
        from kbnet.evaluation import run

        session, console = self._session, message_console()
        todo = {sample.name: sample for sample in self._samples if sample.name not in self.rows}
        shown = console.is_terminal and not quiet
        with RowProgress(len(self._samples), len(self.rows), console, shown=shown) as bar:
            scored = session.benchmark.restores
            for row, pictures in run(todo.values(), session.restore, session.score, scored_input=scored):
                if pictures is not None:
                    self._keep(todo[row.name], row, pictures)
                if self._journal is not None:
                    self._journal.add(row)
                self.rows[row.name] = row
                if row.error is not None:
                    bar.say(f"kbnet: error: {row.name}: {row.error}")
                bar.advance(row)
                if received:
                    raise Stopped(received[0])
        return [self.rows[sample.name] for sample in self._samples]

    def _lacks(self, sample: "Sample") -> bool:
        return self._save is not None and not _picture(self._save, "restored", sample.name).exists()

    def _keep(self, sample: "Sample", row: "Row", pictures: "Pictures") -> None:
        if self._gallery is not None:
            self._gallery.offer(row, pictures)
        if self._save is None:
            return
        from kbnet.imaging import Photo, write_photo
        from kbnet.metrics import to_uint8

        both = {"restored": pictures.output} | ({"input": pictures.input} if sample.made else {})
        for kind, image in both.items():
            path = _picture(self._save, kind, row.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_photo(Photo(to_uint8(image)), path, overwrite=True)


def _picture(folder: Path, kind: str, name: str) -> Path:
    return folder / kind / f"{name}.png"


def _parse_tile(text: str) -> int | Literal["auto", "protocol"]:
    if text == "auto":
        return "auto"
    if text == "protocol":
        return "protocol"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected protocol, auto, 0 or a number of pixels, got {text!r}", param_hint="'--tile'"
        ) from None


def _check_outputs(
    benchmark: str,
    *,
    report: Path | None,
    save: Path | None,
    submission: Path | None,
    limit: int | None,
    overwrite: bool,
) -> None:
    """Check everything that would otherwise fail only at the end."""
    from kbnet.errors import InvalidInputError, OutputExistsError

    if submission is not None:
        if benchmark != "sidd-benchmark" or save is None or limit is not None:
            raise InvalidInputError(
                "--submission packs all restored blocks of the --save folder: it needs --benchmark sidd-benchmark and "
                "--save FOLDER, without --limit"
            )
        if submission.suffix.lower() not in (".csv", ".mat"):
            raise InvalidInputError(f"expected a submission file ending in .csv or .mat, got {submission}")
    for path in (report, submission):
        if path is not None and path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: the file exists; choose another name or add --overwrite")
        if path is not None and not path.parent.is_dir():
            raise InvalidInputError(f"{path}: the folder does not exist; create it first")


def _check_folder(save: Path, samples: list["Sample"]) -> None:
    """Refuse to replace images, except on --resume: then they are the interrupted run's."""
    from kbnet.errors import OutputExistsError

    for sample in samples:
        for kind in ("restored", "input") if sample.made else ("restored",):
            if (path := _picture(save, kind, sample.name)).exists():
                raise OutputExistsError(f"{path}: the file exists; choose another --save folder or add --overwrite")


def _expect(session: "Session", samples: list["Sample"], *, quiet: bool) -> None:
    benchmark = session.benchmark
    found = len({sample.photo for sample in samples})
    if benchmark.pictures and found != benchmark.pictures and not quiet:
        text = f"kbnet: note: the published {benchmark.title} has {benchmark.pictures} images, this folder has {found}"
        typer.echo(text, err=True)


def _write_report(
    path: Path,
    session: "Session",
    samples: list["Sample"],
    rows: list["Row"],
    results: dict[str, Any],
    gallery: "Gallery",
    *,
    overwrite: bool,
) -> None:
    from kbnet.evaluation.report import write_report

    gallery.complete(rows, {sample.name: sample for sample in samples}, session.restore)
    write_report(path, results, rows, gallery, overwrite=overwrite)


def _submit(path: Path, save: Path, rows: list["Row"], results: dict[str, Any], *, overwrite: bool) -> None:
    import numpy as np

    from kbnet.evaluation.submission import write_submission
    from kbnet.imaging import read_photo

    blocks = {}
    for row in rows:
        if row.error is None:
            scene, block = (int(part) - 1 for part in row.photo.split("-"))
            pixels = read_photo(_picture(save, "restored", row.name)).pixels
            blocks[scene, block] = pixels.astype(np.uint8, copy=False)
    seconds = results["seconds_per_megapixel"] or 0.0
    method = results["settings"]["model"]
    write_submission(path, blocks, seconds_per_megapixel=seconds, method=method, overwrite=overwrite)


def _tell(results: dict[str, Any], written: list[Path], *, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json({key: value for key, value in results.items() if key != "images"})
    elif not quiet:
        from kbnet.cli._evaluation_tables import show_summary

        show_summary(results, table_console())
    if not quiet:
        for path in written:
            typer.echo(f"written: {one_line(str(path))}", err=True)


def _command(ctx: typer.Context) -> str:
    """The command in a form that others can repeat: options that affect the figures, folders without their parents."""
    from kbnet.environment import plain_path

    words = ["kbnet", "evaluate"]
    for parameter in ctx.command.params:
        value = ctx.params.get(str(parameter.name))
        if parameter.name in _SILENT or value in (None, False, [], ()) or value == parameter.default:
            continue
        option = max(parameter.opts, key=len)
        if value is True:
            words.append(option)
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            text = f"{one:g}" if isinstance(one, float) else str(getattr(one, "value", one))
            words += [option, plain_path(text)]
    return shlex.join(words)
