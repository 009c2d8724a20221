"""Find settings that train a compact network fastest: short runs of variants of a recipe, with equal CPU time.

    python benchmarks/sweep.py --data FOLDER_OF_CLEAN_PHOTOS --minutes 2

Each variant replaces fields of the recipe. The script measures the time of a step, trains for as many steps as fit with
a schedule scaled to them, and scores the averaged weights on the recipe's validation photos. It measures the CPU time
of the training process, so that other load on the machine doesn't affect the order. The unchanged recipe also runs with
a second seed; differences between variants are significant only if they exceed the difference between these two.

Writes benchmarks/results/sweep.json row by row. Existing rows are kept, so an interrupted sweep resumes.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from facts import RESULTS, write
from kbnet.models import cost, preset_config
from kbnet.training import Progress, Recipe, Run, make_accelerator

Settings = dict[str, str]

BASE: Settings = {
    "optimizer.kind": "muon",
    "optimizer.lr": "1e-2",
    "optimizer.betas": "[0.9, 0.99]",
    "optimizer.schedule": "linear",
}
"""The common settings of all variants, in addition to warm-up over a tenth and decay over half of the run."""

PHASE = {"patch": 64, "batch": 16}
WARM = 12
"""Steps for measuring the time of one step; the first third is ignored."""

VARIANTS: dict[str, tuple[Settings, dict[str, int]]] = {
    "Muon, lr 1e-2, patch 64, batch 16": ({}, {}),
    "the same, another seed": ({"run.seed": "1"}, {}),
    "Muon, lr 5e-3": ({"optimizer.lr": "5e-3"}, {}),
    "Muon, lr 2e-2": ({"optimizer.lr": "2e-2"}, {}),
    "AdamW, lr 1e-3": ({"optimizer.kind": "adamw", "optimizer.lr": "1e-3"}, {}),
    "AdamW, lr 2e-3": ({"optimizer.kind": "adamw", "optimizer.lr": "2e-3"}, {}),
    "AdamW, lr 4e-3": ({"optimizer.kind": "adamw", "optimizer.lr": "4e-3"}, {}),
    "AdamW, lr 8e-3": ({"optimizer.kind": "adamw", "optimizer.lr": "8e-3"}, {}),
    "batch 8": ({}, {"batch": 8}),
    "batch 32": ({}, {"batch": 32}),
    "patch 48, batch 28": ({}, {"patch": 48, "batch": 28}),
    "patch 96, batch 7": ({}, {"patch": 96, "batch": 7}),
    "half a cosine": ({"optimizer.schedule": "cosine"}, {}),
    "Charbonnier loss": ({"loss": '{ kind = "charbonnier" }'}, {}),
    "PSNR loss": ({"loss": '{ kind = "psnr" }'}, {}),
    "bfloat16": ({"run.bfloat16": "true"}, {}),
    "4 bases": ({"model.settings": "{ bases = 4 }"}, {}),
    "16 bases": ({"model.settings": "{ bases = 16 }"}, {}),
    "half the blocks, 1.4 times the width": (
        {
            "model.settings": "{ width = 24, encoder_blocks = [1, 1, 1, 1], middle_blocks = 1, "
            "decoder_blocks = [1, 1, 1, 1] }"
        },
        {},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/denoise-gaussian-nano.toml"))
    parser.add_argument("--data", action="append", required=True, help="as for kbnet train")
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU time of each variant")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="variants to run; all by default")
    parser.add_argument("--name", default="sweep", help="name of the results file")
    options = parser.parse_args()

    path = RESULTS / f"{options.name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for name in options.only or VARIANTS:
        if any(row["variant"] == name for row in rows):
            continue
        rows.append({"variant": name} | measure(options.recipe, options.data, *VARIANTS[name], options.minutes * 60))
        print(json.dumps(rows[-1]), flush=True)
        write(
            options.name,
            {"recipe": options.recipe.name, "budget": f"{options.minutes:g} minutes of CPU time", "rows": rows},
        )


def measure(recipe: Path, data: list[str], settings: Settings, phase: dict[str, int], seconds: float) -> dict[str, Any]:
    """Train one variant for the given CPU time; return its settings and score."""
    phase = PHASE | phase
    _, costs = train(recipe, data, settings, phase, WARM)
    costs = costs[WARM // 3 :]
    steps = max(20, round(seconds * len(costs) / sum(costs)))
    report, costs = train(recipe, data, settings, phase, steps)
    validation = report.validation
    assert validation is not None
    model = plan(recipe, settings, phase, steps).model
    return {
        "settings": settings | {name: str(value) for name, value in phase.items()},
        "macs_per_pixel": round(cost(preset_config(model.preset, **model.settings)).per_pixel),
        "steps": steps,
        "processor_seconds": round(sum(costs), 1),
        "psnr": {name: round(score, 3) for name, score in validation.scores.items()},
        "mean_psnr": round(validation.mean, 3),
    }


def plan(recipe: Path, settings: Settings, phase: dict[str, int], steps: int) -> Recipe:
    """The recipe of a variant, for a number of steps."""
    fields = ", ".join(f"{name} = {value}" for name, value in phase.items())
    length = {
        "phases": f"[{{ steps = {steps}, {fields} }}]",
        "optimizer.warmup_steps": str(steps // 10),
        "optimizer.hold_steps": str(steps // 2 - steps // 10),
        "run.validation_steps": "1000000",
        "run.checkpoint_minutes": "1e9",
    }
    return Recipe.read(recipe, BASE | settings | length)


def train(
    recipe: Path, data: list[str], settings: Settings, phase: dict[str, int], steps: int
) -> tuple[Progress, list[float]]:
    """The last report of a run, and the CPU seconds of each step except the first."""
    times: list[float] = []
    reports: list[Progress] = []

    def clock() -> bool:
        times.append(time.process_time())  # after a step, before validation
        return False

    with tempfile.TemporaryDirectory() as folder:
        run = Run(plan(recipe, settings, phase, steps), data, Path(folder) / "run", make_accelerator())
        run.train(reports.append, clock)
    return reports[-1], [b - a for a, b in itertools.pairwise(times)]


if __name__ == "__main__":
    main()
