"""The options of `kbnet restore`, and which of them conflict."""

import re
import stat
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kbnet.cli._library_options import LIBRARY, LibraryOptions
from kbnet.cli._pipes import PIPE
from kbnet.suggesting import did_you_mean

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # defined here because importing Ray's package takes a second

_TILES, _CLUSTER = "Tiles and memory", "Many processes or machines (Ray)"


TASKS = ("denoise", "denoise-gaussian", "derain", "deblur")
FORMER_TASKS = ("denoise-real", "denoise-gray", "denoise-free")  # of earlier releases; the catalogue knows them


class Preset(StrEnum):
    """Which of a task's models."""

    FAST = "fast"
    BEST = "best"


class ContextChoice(StrEnum):
    """Where the network takes its averages."""

    AUTO = "auto"
    GLOBAL = "global"
    LOCAL = "local"
    TILE = "tile"


class Engine(StrEnum):
    """What runs the jobs."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class RestoreOptions(LibraryOptions):
    """The command as given; None means not given."""

    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Photos, folders (with subfolders), quoted patterns, or - for stdin."),
    ]
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUTPUT",
            help="File for one photo, folder for several, or - for stdout. By default, results go next to their "
            "inputs, named like photo-denoised.png.",
        ),
    ] = None
    task: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(TASKS),
            help="What to remove. denoise handles any noise; denoise-gaussian handles only synthetic Gaussian noise, "
            "as in papers.",
            show_default="denoise",
            autocompletion=lambda: list(TASKS),
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="fast: the default model. best: a larger, slower model, if the task has one.",
            show_default="fast",
        ),
    ] = None
    strength: Annotated[float, typer.Option(metavar="X", min=0, max=1, help="0 = original, 1 = fully restored.")] = 1.0
    color_strength: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="The same for colour only; --strength 0.3 --color-strength 1 removes colour noise and keeps grain.",
            show_default="same as --strength",
        ),
    ] = None
    detail: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            help="How much of the fine detail that was removed comes back, 0 = none, 1 = all.",
        ),
    ] = 0.0
    format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="png, jpg, tif, webp, avif or heic; dng for camera raw files.",
            show_default="same as the input",
        ),
    ] = None
    quality: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=100, help="JPEG, WebP, AVIF and HEIC quality.", show_default="95, AVIF 90"
        ),
    ] = None
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Add TEXT to output names.", show_default="-denoised, -derained or -deblurred"
        ),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False
    drop_extras: Annotated[
        bool,
        typer.Option(
            "--drop-extras",
            help="With --overwrite, also replace files that contain what their results can't keep: a second image, a "
            "sound, layers, raw data.",
        ),
    ] = False
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average eight flipped and rotated passes: slightly better, 8x slower.")
    ] = False
    guard: Annotated[
        bool,
        typer.Option(
            "--guard", help="Leave areas unrestored where the result is implausible, such as colour blotches."
        ),
    ] = False
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Model to use instead of the task's: a name from `kbnet models`, a weights file, or a graph from "
            "`kbnet export` (.onnx, .xml).",
        ),
    ] = None
    device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")] = "auto"
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32 or bfloat16.")] = "auto"
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file to stdout.")] = False
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|N|0",
            help="Tile size in pixels; 0 processes the whole photo at once.",
            rich_help_panel=_TILES,
        ),
    ] = "auto"
    overlap: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Overlap of neighbouring tiles in pixels.", rich_help_panel=_TILES),
    ] = None
    context: Annotated[
        ContextChoice,
        typer.Option(
            help="Take averages over the whole photo (global), a window around each pixel (local), or each tile.",
            rich_help_panel=_TILES,
        ),
    ] = ContextChoice.AUTO
    stream: Annotated[
        bool,
        typer.Option(
            "--stream",
            help="Restore photos larger than memory strip by strip, into a tiled TIFF or a PNG. To resume an "
            "interrupted run, repeat the command.",
            rich_help_panel=_TILES,
        ),
    ] = False
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Refuse photos with more pixels.",
            show_default="250000000, no limit with --stream",
            rich_help_panel=_TILES,
        ),
    ] = None
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append one JSON line per file. To resume an interrupted run, repeat the command; it skips finished "
            "files.",
            rich_help_panel=LIBRARY,
        ),
    ] = None
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Keep running and restore new files as they arrive; stop with Ctrl-C.",
            rich_help_panel=LIBRARY,
        ),
    ] = False
    engine: Annotated[
        Engine, typer.Option(help="ray distributes the files among worker processes.", rich_help_panel=_CLUSTER)
    ] = Engine.LOCAL
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Worker processes.",
            show_default="one per --threads cores",
            rich_help_panel=_CLUSTER,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads per worker.", show_default="1", rich_help_panel=_CLUSTER),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Join a Ray cluster, such as auto or 10.0.0.1:6379.",
            show_default="start one on this machine",
            rich_help_panel=_CLUSTER,
        ),
    ] = None
    errors: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CSV table of the files that failed.",
            show_default="OUTPUT/kbnet-errors.csv",
            rich_help_panel=_CLUSTER,
        ),
    ] = None

    @property
    def model_name(self) -> str:
        """The model, or the task, which selects its default model."""
        return self.model or self.task or TASKS[0]

    @property
    def preset_name(self) -> str:
        """The preset as a string, for the library."""
        return (self.preset or Preset.FAST).value

    @property
    def piped_in(self) -> bool:
        """Whether the photo comes from stdin."""
        return PIPE in self.inputs

    @property
    def piped_out(self) -> bool:
        """Whether the result goes to stdout."""
        return self.output == PIPE or (self.piped_in and self.output is None)

    @property
    def piped(self) -> bool:
        """Whether the photo comes from stdin or the result goes to stdout."""
        return self.piped_in or self.piped_out

    @property
    def has_fifo(self) -> bool:
        """Whether an input is a named pipe, which can be read only once and in order."""
        return any(map(_is_fifo, self.inputs))

    @property
    def on_ray(self) -> bool:
        """Whether Ray distributes the work."""
        return self.engine is Engine.RAY

    @property
    def shows_progress(self) -> bool:
        """Whether to draw a live progress line; not if JSON goes to the same terminal, where the two would mix."""
        return sys.stderr.isatty() and not (self.quiet or self.watch or (self.as_json and sys.stdout.isatty()))

    @property
    def result_suffix(self) -> str:
        """The text between a result's stem and its extension."""
        if self.suffix is not None:
            return self.suffix
        if self.output is not None:
            return ""

        from kbnet.inference.naming import result_suffix
        from kbnet.models import find

        if self.model is None or self.task is not None:
            return result_suffix(self.task or TASKS[0])
        entry = find(self.model)
        return result_suffix("" if entry is None else entry.task)

    @property
    def look(self) -> dict[str, Any]:
        """How results look: keyword arguments of a Restorer's call."""
        return {"strength": self.strength, "color_strength": self.color_strength, "detail": self.detail}

    def restorer_options(self) -> dict[str, Any]:
        """Keyword arguments of `Restorer.from_pretrained`."""
        given: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype,
            "tile": parse_tile(self.tile),
            "overlap": self.overlap,
            "context": self.context.value,
            "ensemble": self.ensemble,
            "guard": self.guard,
        }
        return given | {"preset": self.preset_name}

    def check(self) -> None:
        """Refuse conflicting options before anything is loaded.

        Raises:
            typer.BadParameter: two options, or an option and an input, conflict.
        """
        if self.task is not None and self.task not in (*TASKS, *FORMER_TASKS):
            near = did_you_mean(self.task, TASKS)
            raise typer.BadParameter(
                f"expected one of {', '.join(TASKS)}; got {self.task!r}{near}", param_hint="'--task'"
            )
        parse_tile(self.tile)
        from kbnet.cli._restore_conflicts import CONFLICTS

        for conflict in CONFLICTS:
            if conflict.applies(self):
                raise typer.BadParameter(conflict.words, param_hint=conflict.option)


def parse_tile(text: str) -> int | Literal["auto"]:
    """The value of --tile.

    Raises:
        typer.BadParameter: it is not auto, 0 or a number.
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"expected auto, 0 or a number of pixels, got {text!r}", param_hint="'--tile'"
        ) from None


def _is_fifo(name: str) -> bool:
    try:
        return stat.S_ISFIFO(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return False
