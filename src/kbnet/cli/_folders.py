"""Many files: the log that a run goes on from, files as they come, and what to say at the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from kbnet.inference import Restorer
    from kbnet.inference.jobs import Job, Result
    from kbnet.inference.ledger import Ledger


def check_folder_options(*, log: Path | None, watch: bool, one_file: bool, stream: bool, ray: bool) -> None:
    """Refuse what these options do not go with."""
    for name, given in (("--log", log is not None), ("--watch", watch)):
        if given and one_file:
            raise typer.BadParameter("it is for files and folders, not for a pipe", param_hint=f"'{name}'")
        if given and ray:
            raise typer.BadParameter("it is for one process; leave out --engine ray", param_hint=f"'{name}'")
    if log is not None and stream:
        raise typer.BadParameter("--stream goes on by itself; leave out one of them", param_hint="'--log'")


def open_ledger(path: Path, model: str, restorer: "Restorer", **options: Any) -> "Ledger":
    """The log of this run and of earlier ones with the same weights and settings."""
    from kbnet.inference.identity import identity
    from kbnet.inference.ledger import Ledger

    return Ledger(path, {"identity": identity(restorer), **options})


def batches(plan: "Callable[[], list[Job]]", first: "list[Job]", *, watch: bool) -> "Iterator[Sequence[Job]]":
    """The jobs: all there are, or with `watch` those that come, without end."""
    if not watch:
        yield first
        return
    from kbnet.inference.watching import watch as watch_files

    yield from watch_files(plan)


@dataclass
class Tally:
    """What has become of the files so far."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    pixels: int = 0
    started: float = field(default_factory=time.monotonic)

    def count(self, result: "Result") -> None:
        """One more."""
        self.failed += not result.ok
        self.skipped += result.skipped
        self.done += result.ok and not result.skipped
        self.pixels += result.width * result.height

    @property
    def summary(self) -> str:
        """One line."""
        seconds = max(time.monotonic() - self.started, 1e-3)
        parts = [f"{self.done} restored"]
        parts += [f"{self.skipped} done before"] if self.skipped else []
        parts += [f"{self.failed} failed"] if self.failed else []
        megapixels = self.pixels / 1e6
        return (
            f"{', '.join(parts)}; {megapixels:.1f} megapixels in {seconds:.1f} s, {megapixels / seconds:.2f} a second"
        )
