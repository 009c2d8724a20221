"""Training speed of a recipe with the compiled operator and with the reference, and the share of loading time.

    python benchmarks/training.py --recipe recipes/denoise-gaussian-nano.toml --data FOLDER

Writes benchmarks/results/training.json: for each phase size of the recipe and each backend, the rate of training steps
from the run's clock, without the first steps. Before timing, both backends run the same two steps; if their losses
differ by more than rounding errors, nothing is timed.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines import operator
from facts import write
from kbnet.ops import available_backends
from kbnet.training import Progress, Recipe, Run, make_accelerator

AGREE = 1e-3
"""Largest relative difference between the losses of two backends after two steps."""

CUT = {
    "optimizer.warmup_steps": "0",
    "optimizer.hold_steps": "0",
    "optimizer.schedule": "cosine",
    "optimizer.cycles": "[]",
    "run.validation_steps": "1000000",
    "run.validation_photos": "1",
    "run.checkpoint_minutes": "1e9",
}
"""Settings for a run of a few steps: no long schedule, validations or checkpoints between steps."""


class Timed:
    """Runs of one recipe, cut to one phase of a few steps."""

    def __init__(self, recipe: Path, data: list[str], settings: dict[str, str], workers: int | None) -> None:
        self.path, self.data, self.settings, self.workers = recipe, data, settings, workers
        self.accelerator = make_accelerator()

    def train(self, phase: str, steps: int, backend: str) -> tuple[list[Progress], Run]:
        """Reports of a number of steps, without validations and checkpoints between them."""
        reports: list[Progress] = []
        with tempfile.TemporaryDirectory() as folder, operator(backend, fused=backend == "native"):
            plan = Recipe.read(self.path, self.settings | {"phases": f"[{{steps = {steps}, {phase}}}]"})
            run = Run(plan, self.data, Path(folder) / "run", self.accelerator, workers=self.workers)
            run.train(reports.append)
        return reports, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/denoise-gaussian-nano.toml"))
    parser.add_argument("--data", action="append", required=True, help="as for kbnet train")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for kbnet train")
    parser.add_argument("--steps", type=int, default=60, help="timed steps")
    parser.add_argument("--backends", nargs="+", default=["native", "reference"], choices=available_backends())
    parser.add_argument("--workers", type=int, help="loader processes; by default, chosen by the run")
    parser.add_argument("--name", default="training", help="name of the results file")
    options = parser.parse_args()

    settings = dict(text.split("=", 1) for text in options.set)
    timed = Timed(options.recipe, options.data, settings | CUT, options.workers)
    phases = {
        f"patch = {p.patch}, batch = {p.batch}": p.batch for p in Recipe.read(options.recipe, settings | CUT).phases
    }
    rows: list[dict[str, Any]] = []
    for phase, batch in phases.items():
        losses = {backend: [r.loss for r in timed.train(phase, 2, backend)[0]] for backend in options.backends}
        expected = losses[options.backends[-1]]
        for backend, found in losses.items():
            if not np.allclose(found, expected, rtol=AGREE):
                raise SystemExit(
                    f"{backend} has the losses {found}, {options.backends[-1]} has {expected}; nothing is timed"
                )
        for backend in options.backends:
            reports, run = timed.train(phase, options.steps, backend)
            last = reports[-1]
            rows.append(
                {
                    "phase": phase,
                    "backend": backend,
                    "patches_per_second": round(last.rate * batch, 3),
                    "steps_per_second": round(last.rate, 4),
                    "loader_share": round(last.loader_share, 5),
                    "loader_processes": run.workers,
                }
            )
            print(f"{phase}, {backend}: {last.rate * batch:.2f} patches/s, loader {last.loader_share:.2%}")
    path = write(
        options.name,
        {
            "recipe": options.recipe.name,
            "settings": settings,
            "device": str(timed.accelerator.device),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "steps": options.steps,
            "rows": rows,
        },
    )
    print(path)


if __name__ == "__main__":
    main()
