"""What `kbnet evaluate` prints: the list of benchmarks, the progress line, the table of means."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kbnet.cli._terminal import one_line, print_json, table_console

if TYPE_CHECKING:
    from kbnet.evaluation import Row


def list_benchmarks(*, as_json: bool) -> None:
    """Print each benchmark's data layout, publication and protocol."""
    from kbnet.evaluation import BENCHMARKS

    fields = ("name", "title", "layout", "source", "protocol", "task", "sigmas", "pictures")
    if as_json:
        print_json([{field: getattr(benchmark, field) for field in fields} for benchmark in BENCHMARKS.values()])
        return
    table = Table(title="Benchmarks", show_lines=True)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("images", justify="right")
    for heading in ("--data holds", "published", "measured"):
        table.add_column(heading, ratio=1)
    for benchmark in BENCHMARKS.values():
        cells = [str(benchmark.pictures or "any"), benchmark.layout, benchmark.source, benchmark.protocol]
        table.add_row(benchmark.name, benchmark.task, *cells)
    table_console().print(table)


class RowProgress:
    """A live progress line: the current image, finished rows, images per second, time left.

    With shown=False it draws nothing, but still prints what goes through `say`.
    """

    def __init__(self, total: int, done: int, console: Console, *, shown: bool) -> None:
        self._console = console
        self._started, self._count = time.monotonic(), 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left", markup=False),
            console=console,
            transient=True,
            disable=not shown,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("measuring", total=total, completed=done, rate="")

    def __enter__(self) -> "RowProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def advance(self, row: "Row") -> None:
        """Count one more row as done."""
        self._count += 1
        rate = self._count / max(time.monotonic() - self._started, 1e-6)
        name = one_line(row.name)
        shown = name if len(name) <= 32 else "…" + name[-31:]
        self._progress.update(self._task, advance=1, description=shown, rate=f"{rate:.2g} images/s")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)


def show_summary(results: Mapping[str, Any], console: Console) -> None:
    """Print the means as a table: input, restored and gain per group, the lowest image, how many got worse."""
    from kbnet.evaluation.rows import label

    means: Mapping[str, Any] = results["means"]
    settings = results["settings"]
    title = f"{settings['model']} on {settings['set']} ({results['title']}), context {settings['context']}"
    names = list(dict.fromkeys(name for mean in means.values() for name in mean["output"]))
    has_input = any(mean["input"] for mean in means.values())
    table = Table(title=Text(one_line(title)), caption=Text(results["protocol"]), caption_justify="left")
    table.add_column("group")
    table.add_column("images", justify="right")
    for name in names:
        for side in ("input", "restored") if has_input else ("restored",):
            table.add_column(f"{label(name)}, {side}", justify="right")
    if has_input:
        table.add_column("gain", justify="right")
    table.add_column("lowest")
    if has_input:
        table.add_column("worse than input", justify="right")
    for group, mean in means.items():
        sides = ("input", "output") if has_input else ("output",)
        cells = [_shown(mean[side].get(name), name) for name in names for side in sides]
        if has_input:
            gain = float(mean["output"][names[0]]) - float(mean["input"][names[0]])
            cells.append(f"{gain:+.2f}")
        low = mean["lowest"]
        cells.append(f"{_shown(low[names[0]], names[0])} ({one_line(low['photo'])})")
        if has_input:
            cells.append(str(mean["worse"]))
        table.add_row(group, str(mean["pictures"]), *map(Text, cells))
    if means:
        console.print(table)
    seconds = results["seconds_per_megapixel"]
    if seconds is not None:
        console.print(f"{seconds:.2f} seconds per megapixel", highlight=False)


def _shown(value: float | str | None, name: str) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.{2 if name == 'psnr' else 4}f}"
