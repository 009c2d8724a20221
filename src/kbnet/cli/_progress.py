"""The progress line of `kbnet restore`."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kbnet.cli._terminal import one_line


class FileProgress:
    """A live progress line: the current file, files done, its tiles, tiles per second, time left for all files.

    With shown=False it draws nothing, but still prints what goes through `say`.
    """

    def __init__(self, files: int, console: Console, *, shown: bool) -> None:
        self._console = console
        self._done = 0
        self._tiles = 0
        self._rate = 0.0
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("left", markup=False),
            console=console,
            transient=True,
            disable=not shown,
            # stdout may carry JSON or the image itself
            redirect_stdout=False,
        )
        self._files = files
        self._task = self._progress.add_task("starting", total=files, counts="")

    def __enter__(self) -> "FileProgress":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def update(self, name: str, done: int, total: int) -> None:
        """Update the progress of the current file; (name, 0, 0) at its start."""
        now = time.monotonic()
        if total == 0:
            self._started, self._tiles = now, 0
        elif done > self._tiles:
            self._rate = (done - self._tiles) / max(now - self._started, 1e-6)
            self._started, self._tiles = now, done
        counts = f"file {min(self._done + 1, self._files)}/{self._files}"
        if total:
            counts += f", tile {done}/{total}, {self._rate:.2g}/s"
        fraction = done / total if total else 0.0
        shown = one_line(name)
        shown = shown if len(shown) <= 40 else "…" + shown[-39:]
        self._progress.update(self._task, description=shown, completed=self._done + fraction, counts=counts)

    def finish(self) -> None:
        """Count the current file as done."""
        self._done += 1
        self._progress.update(self._task, completed=self._done)

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)
