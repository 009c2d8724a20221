"""Restoring many files: the log to resume from, and the summary."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kbnet.cli._restore_options import RestoreOptions

if TYPE_CHECKING:
    from kbnet.inference import Restorer
    from kbnet.inference.jobs import Result
    from kbnet.inference.ledger import Ledger


def open_ledger(path: Path, restorer: "Restorer", options: RestoreOptions) -> "Ledger":
    """The log of this run and of earlier runs with the same weights and settings."""
    from kbnet.inference.identity import identity
    from kbnet.inference.ledger import Ledger, output_settings
    from kbnet.inference.look import Look

    written = output_settings(
        format=options.format, quality=options.quality, same_quality=options.same_quality, mark=options.mark
    )
    return Ledger(path, {"identity": identity(restorer), **Look(**options.look).settings(), **written})


@dataclass
class Tally:
    """Counts of files so far, by outcome."""

    done: int = 0
    failed: int = 0
    skipped: int = 0
    results: int = 0
    pixels: int = 0
    changes: float = 0.0
    compared: int = 0
    full: bool = False
    started: float = field(default_factory=time.monotonic)

    def count(self, result: "Result") -> None:
        """Count one result."""
        self.failed += not result.ok
        self.results += result.is_marked
        self.skipped += result.skipped and not result.is_marked
        self.done += result.ok and not result.skipped
        self.pixels += result.width * result.height
        self.full |= result.full
        if result.change is not None:
            self.changes += result.change
            self.compared += 1

    @property
    def total(self) -> int:
        """The number of files so far."""
        return self.done + self.failed + self.skipped + self.results

    @property
    def summary(self) -> str:
        """The counts, the mean change and the speed, in one line."""
        seconds = max(time.monotonic() - self.started, 1e-3)
        parts = [f"{self.done} restored"]
        parts += [f"{self.skipped} already done"] if self.skipped else []
        parts += [f"{self.results} results of earlier runs skipped"] if self.results else []
        parts += [f"{self.failed} failed"] if self.failed else []
        if self.compared:
            parts[-1] += f"; mean change {255 * self.changes / self.compared:.1f} of 255 levels"
        megapixels = self.pixels / 1e6
        return (
            f"{', '.join(parts)}; {megapixels:.1f} megapixels in {seconds:.1f} s, {megapixels / seconds:.2f} per second"
        )
