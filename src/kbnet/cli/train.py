"""`kbnet train`: trains weights from a recipe and folders of photos."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kbnet import files
from kbnet.cli._signals import Stopped, stop_signals
from kbnet.cli._terminal import message_console, one_line
from kbnet.errors import InvalidInputError, KBNetError, MissingExtraError, TrainingError

if TYPE_CHECKING:
    from rich.console import Console

    from kbnet.nn import Network
    from kbnet.training import Progress, Run

RESULT = "model.safetensors"
BEST_RESULT = "best.safetensors"
_LINE_EVERY = 100  # steps between log lines without a terminal, and between points of a curve
_SMOOTHING = 0.98
_SAME_REQUEST = 1.0  # seconds


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file, such as recipes/denoise-nano.toml.")],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER",
            help="Folder of clean photos or pairs. Repeat it for more folders; for a recipe with several sources, use "
            "NAME=FOLDER.",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for checkpoints, curves and results.", show_default="runs/RECIPE"),
    ] = None,
    replacements: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a recipe value: --set optimizer.lr=1e-3 --set phases.0.steps=200",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint in the run folder.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=256, help="Data loading processes per device.", show_default="by cores"),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0,
            help="Memory for decoded photos; the rest goes to disk.",
            show_default="half of the free memory",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for decoded photos that don't fit into memory.",
            show_default="next to the run folder",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")] = False,
) -> None:
    """Train a network from a recipe.

    Ctrl-C saves a checkpoint after the current step, and --resume continues from it. At the end, the averaged weights
    are in FOLDER/model.safetensors. If earlier weights validated better, those are in FOLDER/best.safetensors.

    For several devices or processes, use `accelerate launch -m kbnet train ...` or `torchrun -m -- kbnet train ...`.
    Needs the `train` extra.
    """
    settings = dict(_parse_setting(text) for text in replacements or [])
    folder = run or Path("runs") / recipe.stem
    try:
        from kbnet.training import Recipe, Run, make_accelerator
        from kbnet.training.checkpoint import sole_writer
    except ModuleNotFoundError as error:
        if (error.name or "kbnet").partition(".")[0] == "kbnet":
            raise
        raise MissingExtraError(str(error.name), "train") from None

    with _memory_explained(), _one_voice():
        plan = Recipe.read(recipe, settings)
        _check_folder(folder, resume=resume)
        accelerator = make_accelerator()
        console = message_console()
        quiet = quiet or not accelerator.is_main_process
        _show_messages(console, logging.WARNING if quiet else logging.INFO, shown=accelerator.is_main_process)
        if not quiet:
            console.print(f"reading {', '.join(data)}", markup=False, soft_wrap=True)
        limit = None if memory is None else int(memory * 2**30)
        code = 0
        try:
            with sole_writer(folder) if accelerator.is_main_process else nullcontext():
                work = Run(plan, data, folder, accelerator, workers=workers, memory=limit, cache=cache)
                _train(work, console, quiet=quiet)
        except typer.Exit as ended:
            code = ended.exit_code
        finally:
            accelerator.end_training()
        if accelerator.num_processes > 1:
            _leave(code)
        if code:
            raise typer.Exit(code)


def _check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse to resume without a checkpoint, and to start where files of another run would be overwritten."""
    from kbnet.training.checkpoint import NAME
    from kbnet.training.start import results

    found = results(folder)
    if NAME in found and not resume:
        raise InvalidInputError(
            f"{folder} already contains a run; add --resume to continue it, or choose another --run folder"
        )
    if found and NAME not in found:
        wanted = "a checkpoint to resume from" if resume else "a --run folder without files of a run"
        raise InvalidInputError(
            f"expected {wanted}, found {', '.join(found)} but no {NAME} in {folder}; choose another --run folder"
            f"{' and start without --resume' if resume else ', or move them away'}"
        )
    if resume and not found:
        raise InvalidInputError(
            f"expected a checkpoint to resume from, found no {folder / NAME}; start without --resume"
        )


def _leave(code: int) -> NoReturn:
    """End this process immediately, without Python's shutdown.

    DistributedDataParallel keeps the threads of its process group alive. If one of them releases a tensor while Python
    shuts down, the process aborts (seen with gloo on a busy machine). All files are written and closed by now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _train(work: "Run", console: "Console", *, quiet: bool) -> None:
    folder, plan = work.folder, work.recipe
    stopping: list[int] = []
    last = 0.0

    def stop(number: int) -> None:
        nonlocal last
        now = time.monotonic()
        # Terminals and launchers often send a signal twice in a row; only a later one is a second request.
        if stopping and now - last > _SAME_REQUEST:
            raise Stopped(number)
        if not stopping:
            stopping.append(number)
            last = now

    with _Report(folder, work.step, plan.steps, console, quiet=quiet) as shown, stop_signals(stop):
        try:
            network = work.train(shown.step, lambda: bool(stopping))
            stopped = Stopped(
                stopping[0] if stopping else signal.SIGTERM
            )  # another process may have received the signal
        except Stopped as again:  # second request: the current step is incomplete and not saved
            stopped, network = again, None
    if network is None or work.step < plan.steps:
        if work.accelerator.is_main_process:
            typer.echo(
                f"kbnet: {stopped.word} after step {shown.seen} of {plan.steps}; continue with --resume --run {folder}",
                err=True,
            )
        raise typer.Exit(stopped.exit_code)
    if work.accelerator.is_main_process:
        _write_weights(work, network, console, quiet=quiet)


def _write_weights(work: "Run", network: "Network", console: "Console", *, quiet: bool) -> None:
    from kbnet.models.usage import usage_beside
    from kbnet.nn import save_file
    from kbnet.training import checkpoint

    folder = work.folder
    usage = usage_beside(folder / RESULT)
    save_file(network, folder / RESULT, usage=usage, overwrite=True)
    if not quiet:
        console.print(f"averaged weights: {folder / RESULT}", markup=False, soft_wrap=True)
    if work.best is None:  # nothing was validated since the photos changed
        return
    best = checkpoint.load(folder, checkpoint.BEST)
    if best is None or work.best[0] == work.step or best["step"] != work.best[0]:
        # The run was extended, and an earlier file would still claim to be better than the last weights.
        files.discard(folder / BEST_RESULT)
        return
    checkpoint.check(best, folder / checkpoint.BEST)
    work.stepper.ema.load_state_dict(best["ema"])
    save_file(work.averaged(), folder / BEST_RESULT, usage=usage, overwrite=True)
    if not quiet:
        console.print(
            f"best weights in validation, step {best['step']}: {folder / BEST_RESULT}", markup=False, soft_wrap=True
        )


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Say what needs less memory. Every process says it, because often only one of several runs out of it."""
    try:
        yield
    except KBNetError:
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        from kbnet.inference.failures import lacks_memory

        if not lacks_memory(error):
            raise
        raise TrainingError(
            "not enough memory for this training run; use a larger phases.N.accumulate, a smaller batch or patch, "
            "fewer --workers, or less --memory"
        ) from error


@contextmanager
def _one_voice() -> Iterator[None]:
    """If all processes fail alike, report the error only in the first one."""
    try:
        yield
    except KBNetError:
        if int(os.environ.get("RANK", "0")) == 0:
            raise
        raise typer.Exit(1) from None


class _Report:
    """Output of a run: a live line on a terminal, plain lines elsewhere, curves for TensorBoard."""

    def __init__(self, folder: Path, step: int, steps: int, console: "Console", *, quiet: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.seen = step
        self._console, self._quiet = console, quiet
        self._live = sys.stderr.isatty() and not quiet
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
        self._writer = None if quiet else _curves(folder, step)

    def __enter__(self) -> "_Report":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if self._writer is not None:
            self._writer.close()

    def step(self, progress: "Progress") -> None:
        """Record one step."""
        self.seen = progress.step
        loss = progress.loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * progress.loss
        self._loss = loss
        found = progress.validation
        if found is not None:
            self._scores = ", ".join(f"{name} {value:.2f}" for name, value in found.scores.items()) + " dB"
        text = (
            f"step {progress.step}/{progress.steps}, loss {loss:.5f}, lr {progress.lr:.2e}, "
            f"{progress.rate:.2f} steps/s, loader {progress.loader_share:.1%}"
        )
        if self._scores:
            text += f", {self._scores}"
        self._bar.update(self._task, completed=progress.step, description=text)
        point = progress.step % _LINE_EVERY == 0 or progress.step == progress.steps
        if not self._quiet and (found is not None or (point and not self._live)):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._writer is not None and (point or found is not None):
            self._draw(self._writer, progress, loss)

    def _draw(self, writer: Any, progress: "Progress", loss: float) -> None:
        values = {
            "loss": loss,
            "lr": progress.lr,
            "gradient norm": progress.grad_norm,
            "steps per second": progress.rate,
            "loader share": progress.loader_share,
        }
        if progress.validation is not None:
            values |= {f"psnr/{name}": value for name, value in progress.validation.scores.items()}
            for name, picture in progress.validation.pictures.items():
                shape = "HW" if picture.ndim == 2 else "HWC"
                writer.add_image(f"degraded, restored, clean/{name}", picture, progress.step, dataformats=shape)
        for name, value in values.items():
            writer.add_scalar(name, value, progress.step)


class _ConsoleHandler(logging.Handler):
    """Prints log records above the live line."""

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning: " if record.levelno >= logging.WARNING else ""
        text = f"kbnet: {kind}{one_line(record.getMessage())}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _show_messages(console: "Console", level: int, *, shown: bool) -> None:
    logger = logging.getLogger("kbnet")
    logger.handlers = [_ConsoleHandler(console) if shown else logging.NullHandler()]
    logger.setLevel(level)
    logger.propagate = False


def _curves(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None if tensorboard isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "curves"), purge_step=step + 1)


def _parse_setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"expected KEY=VALUE, got {text!r}", param_hint="'--set'")
    return key, value
