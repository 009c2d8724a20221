"""`kbnet train`: a recipe and a folder of photographs in, weights out."""

import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kbnet.cli._signals import Stopped, stop_signals
from kbnet.cli._terminal import message_console, one_line
from kbnet.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from rich.console import Console

    from kbnet.training import Progress

RESULT = "model.safetensors"
_LINE_EVERY = 100  # steps between lines where there is no live one, and between points of a curve
_SMOOTHING = 0.98


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/denoise-nano.toml.")],
    data: Annotated[Path, typer.Option(help="Folder of clean photographs.")],
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For checkpoints, curves and the result.", show_default="runs/RECIPE"),
    ] = None,
    replacements: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the recipe: --set optimizer.lr=1e-3"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Train a network. Ctrl-C saves a checkpoint after the step at hand, and --resume goes on from it.

    The averaged weights are written to FOLDER/model.safetensors at the end. Needs the `train` extra; start it under
    `accelerate launch -m kbnet train ...` for several devices.
    """
    settings = dict(_parse_setting(text) for text in replacements or [])
    folder = run or Path("runs") / recipe.stem
    try:
        from kbnet.training import Recipe, Run
        from kbnet.training.checkpoint import NAME
    except ModuleNotFoundError as error:
        if (error.name or "kbnet").partition(".")[0] == "kbnet":
            raise
        raise MissingExtraError(str(error.name), "train") from None
    from kbnet.models import save_file

    plan = Recipe.read(recipe, settings)
    if (folder / NAME).exists() and not resume:
        raise InvalidInputError(f"{folder} holds a run already; go on with --resume, or give another --run folder")
    if resume and not (folder / NAME).exists():
        raise InvalidInputError(
            f"expected a checkpoint to go on from, found no {folder / NAME}; start without --resume"
        )
    console = message_console()
    _show_warnings(console)
    console.print(f"reading {data}", markup=False, soft_wrap=True) if not quiet else None
    work = Run(plan, data, folder)
    main_process = work.accelerator.is_main_process
    stopping: list[int] = []

    def stop(number: int) -> None:
        if stopping:
            raise Stopped(number)
        stopping.append(number)

    with _Report(folder, work.step, plan.steps, console, quiet=quiet or not main_process) as shown, stop_signals(stop):

        def report(progress: "Progress") -> None:
            shown.step(progress)
            if stopping:
                raise Stopped(stopping[0])

        try:
            network = work.train(report)
        except Stopped as stopped:
            # raised between two steps, unless asked for twice: then the step at hand is not whole
            if work.step == shown.seen:
                work.save()
            typer.echo(
                f"kbnet: {stopped.word} after step {work.step} of {plan.steps}; go on with --resume --run {folder}",
                err=True,
            )
            raise typer.Exit(stopped.exit_code) from None
    if main_process:
        save_file(network, folder / RESULT, overwrite=True)
        if not quiet:
            console.print(f"averaged weights: {folder / RESULT}", markup=False, soft_wrap=True)


class _Report:
    """What a run shows and records: a live line on a terminal, plain lines elsewhere, curves with tensorboard."""

    def __init__(self, folder: Path, step: int, steps: int, console: "Console", *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.seen = self._first = step
        self._console, self._quiet = console, quiet
        self._live = sys.stderr.isatty() and not quiet
        self._started = time.monotonic()
        self._loss: float | None = None
        self._scores = ""
        self._bar = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=steps, completed=step)
        self._writer = None if quiet else _curves(folder)

    def __enter__(self) -> "_Report":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, progress: "Progress") -> None:
        """Take in one step."""
        self.seen = progress.step
        loss = progress.loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * progress.loss
        self._loss = loss
        rate = (progress.step - self._first) / max(time.monotonic() - self._started, 1e-9)
        if progress.psnr:
            self._scores = ", ".join(f"σ{sigma:g} {value:.2f}" for sigma, value in progress.psnr.items()) + " dB"
        text = f"step {progress.step}/{progress.steps}, loss {loss:.5f}, lr {progress.lr:.2e}, {rate:.2f} steps/s"
        if self._scores:
            text += f", {self._scores}"
        self._bar.update(self._task, completed=progress.step, description=text)
        point = progress.step % _LINE_EVERY == 0 or progress.step == progress.steps
        if not self._quiet and (progress.psnr or (point and not self._live)):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._writer is not None and (point or progress.psnr):
            self._writer.add_scalar("loss", loss, progress.step)
            self._writer.add_scalar("lr", progress.lr, progress.step)
            for sigma, value in (progress.psnr or {}).items():
                self._writer.add_scalar(f"psnr/sigma-{sigma:g}", value, progress.step)


class _ConsoleHandler(logging.Handler):
    """Log records as lines above the live one."""

    def __init__(self, console: "Console") -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = f"kbnet: warning: {one_line(record.getMessage())}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show_warnings(console: "Console") -> None:
    logger = logging.getLogger("kbnet")
    logger.addHandler(_ConsoleHandler(console))
    logger.propagate = False


def _curves(folder: Path) -> Any:
    """A TensorBoard writer, or None where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "curves"))


def _parse_setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="'--set'")
    return key, value
