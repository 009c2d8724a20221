"""Train a recipe on a GPU for a given number of minutes, with CUDA graphs, and evaluate the result.

    python benchmarks/gpu_training.py --recipe recipes/denoise-nano.toml --data PHOTOS --run OUT --minutes 12 \\
        --evaluate cbsd68=FOLDER --evaluate polyu=FOLDER

First measures the time of a step of each phase, with and without a CUDA graph. Then scales the recipe to the given
time: phases keep their shares of the time, and the schedule keeps its shape. Writes the plan, checkpoints, curves
(metrics.jsonl), weights (model.safetensors) and results (gpu-training.json) to OUT.

To resume an interrupted run, repeat the command. If a machine is available for less time than the run takes,
`--stop-after SECONDS` saves a checkpoint and exits with code 3 after that time.

To try it out on a CPU, use `--minutes 0.1 --device cpu`. It has not been run on a GPU yet.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from facts import write
from kbnet import files
from kbnet.evaluation import measured_figures
from kbnet.models import save_file
from kbnet.training import Progress, Recipe, Run, make_accelerator
from kbnet.training.checkpoint import sole_writer

WARM, TIMED, MORE = 10, 30, 10
"""Steps of each phase before timing, which record the graph; timed steps; and steps after timing, because a validation
follows the last one. A GPU's losses are read every tenth step, so all are multiples of ten."""

PLAN, CUT_OFF = "plan.json", 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--data", action="append", required=True, help="as for kbnet train")
    parser.add_argument("--run", type=Path, required=True, metavar="FOLDER", help="folder for all output")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="folder for decoded photos; default: next to the run"
    )
    parser.add_argument("--minutes", type=float, default=12.0, help="training time, without startup and evaluation")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for kbnet train")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, help="data loading processes; default: by cores")
    parser.add_argument("--evaluate", action="append", default=[], metavar="NAME[=FOLDER]", help="benchmark to run")
    parser.add_argument("--against", metavar="NAME|FILE", help="model to compare with")
    parser.add_argument("--limit", type=int, help="evaluate only the first images")
    parser.add_argument(
        "--stop-after", type=float, metavar="SECONDS", help="stop after this time; the same command resumes"
    )
    parser.add_argument("--results", type=Path, help="folder of the results file; default: the run's")
    options = parser.parse_args()
    started = time.monotonic()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a CUDA device, but PyTorch found none; to try the script out, use --device cpu")

    recipe = Recipe.read(options.recipe, dict(text.split("=", 1) for text in options.set))
    accelerator = make_accelerator() if options.device == "cuda" else Accelerator(cpu=True)
    files.make_folder(options.run)
    until = None if options.stop_after is None else started + options.stop_after
    with sole_writer(options.run):
        plan, costs = planned(recipe, options, accelerator)
        run = runs(plan, options, accelerator, options.run)
        seconds, reports = trained(run, until)
    results: dict[str, Any] = {
        "recipe": options.recipe.name,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "cuda_graphs": run.stepper.recorded,
        "seconds_per_step": costs,
        "planned_minutes": options.minutes,
        "seconds_of_this_call": round(seconds, 1),
        "steps": run.step,
        "phases": [phase.model_dump() for phase in plan.phases],
        "complete": run.step == plan.steps,
    }
    if reports and (validation := [r.validation for r in reports if r.validation]):
        results["validation"] = {"psnr": validation[-1].scores, "input_psnr": validation[-1].inputs}
    weights = options.run / "model.safetensors"
    save_file(run.averaged(), weights, overwrite=True)
    if run.step < plan.steps:
        print(f"stopped after step {run.step} of {plan.steps}; to resume, repeat the command", flush=True)
        print(write("gpu-training", results, options.results or options.run), flush=True)
        sys.exit(CUT_OFF)
    # Written before the evaluation and after each benchmark: a machine may be taken away at any time.
    results["figures"] = {}
    models = {"new": str(weights)} | ({} if options.against is None else {options.against: options.against})
    path = write("gpu-training", results, options.results or options.run)
    for benchmark in options.evaluate:
        for name, model in models.items():
            results["figures"].setdefault(name, {}).update(evaluated(benchmark, name, model, options))
            path = write("gpu-training", results, options.results or options.run)
    print(path)


def planned(
    recipe: Recipe, options: argparse.Namespace, accelerator: Accelerator
) -> tuple[Recipe, list[dict[str, float]]]:
    """The recipe scaled to the time, and the cost of a step of each phase; from the run's plan if it has one."""
    path = options.run / PLAN
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["from"] != recipe.model_dump(mode="json") or kept["minutes"] != options.minutes:
            raise SystemExit(f"{options.run} contains a run with another recipe, settings or time; use another --run")
        return Recipe.model_validate(kept["recipe"]), kept["costs"]
    costs = cost_of(recipe, options, accelerator)
    plan = scaled(recipe, [cost["seconds"] for cost in costs], options.minutes * 60)
    kept = {
        "from": recipe.model_dump(mode="json"),
        "minutes": options.minutes,
        "recipe": plan.model_dump(mode="json"),
        "costs": costs,
    }
    files.write(json.dumps(kept, indent=1).encode(), path)
    return plan, costs


def cost_of(recipe: Recipe, options: argparse.Namespace, accelerator: Accelerator) -> list[dict[str, float]]:
    """Seconds per step of each phase; on a GPU, also without a CUDA graph."""
    ways = {"seconds": "auto"} | ({"without_graph": "off"} if options.device == "cuda" else {})
    warm, timed, more = (WARM, TIMED, MORE) if options.device == "cuda" else (1, 2, 1)
    costs: list[dict[str, float]] = [{} for _ in recipe.phases]
    for index, phase in enumerate(recipe.phases):
        for name, graph in ways.items():
            short = changed(
                recipe,
                phases=[phase.model_dump() | {"steps": warm + timed + more}],
                optimizer={"warmup_steps": 0, "hold_steps": 0, "schedule": "cosine", "cycles": []},
                run={"validation_steps": 10**6, "validation_photos": 1, "checkpoint_minutes": 1e9, "cuda_graph": graph},
            )
            times: dict[int, float] = {}
            with tempfile.TemporaryDirectory() as folder:
                run = runs(short, options, accelerator, Path(folder) / "run")
                run.train(lambda progress, times=times: times.update({progress.step: time.monotonic()}))  # type: ignore[misc]
            costs[index][name] = (times[warm + timed] - times[warm]) / timed
            print(f"patch {phase.patch}, batch {phase.batch}: {1e3 * costs[index][name]:.1f} ms per step, {name}")
    return costs


def scaled(recipe: Recipe, costs: list[float], seconds: float) -> Recipe:
    """The recipe for this time: phases keep their shares of it, and the schedule keeps its shape."""
    factor = seconds / sum(phase.steps * cost for phase, cost in zip(recipe.phases, costs, strict=True))
    steps = [max(1, round(phase.steps * factor)) for phase in recipe.phases]
    total, o = sum(steps), recipe.optimizer
    share = total / recipe.steps
    warmup = min(round(o.warmup_steps * share), total - 1)
    cycles = [cycle.model_dump() | {"steps": max(1, round(cycle.steps * share))} for cycle in o.cycles]
    if cycles:
        warmup = total - sum(cycle["steps"] for cycle in cycles)  # what rounding leaves
        if warmup < 0:
            raise SystemExit(f"{len(cycles)} cycles of the schedule don't fit into {total} steps; use more --minutes")
    return changed(
        recipe,
        phases=[phase.model_dump() | {"steps": n} for phase, n in zip(recipe.phases, steps, strict=True)],
        optimizer={
            "warmup_steps": warmup,
            "hold_steps": min(round(o.hold_steps * share), total - warmup),
            "cycles": cycles,
        },
        run={"validation_steps": max(10, total // 6), "checkpoint_minutes": 2.0},
    )


def changed(recipe: Recipe, **sections: Any) -> Recipe:
    """The recipe with other phases and fields."""
    table = recipe.model_dump(mode="json")
    for name, value in sections.items():
        table[name] = value if isinstance(value, list) else table[name] | value
    return Recipe.model_validate(table)


def runs(recipe: Recipe, options: argparse.Namespace, accelerator: Accelerator, folder: Path) -> Run:
    """A run of the recipe; all runs share the decoded photos."""
    cache = options.cache or options.run.parent / "cache"
    return Run(recipe, options.data, folder, accelerator, workers=options.workers, memory=0, cache=cache)


def trained(run: Run, until: float | None) -> tuple[float, list[Progress]]:
    """Train to the end or to this time; return the seconds taken, and the reports with validations."""
    reports: list[Progress] = []
    told = started = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal told
        if progress.validation is not None:
            reports.append(progress)
            print(f"step {progress.step}: {progress.validation.mean:.2f} dB", flush=True)
        elif time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"step {progress.step} of {progress.steps}, {progress.rate:.2f} steps/s", flush=True)

    run.train(report, lambda: until is not None and time.monotonic() > until)
    return time.monotonic() - started, reports


def evaluated(benchmark: str, label: str, model: str, options: argparse.Namespace) -> dict[str, float]:
    """The results of `kbnet evaluate` for a model on a benchmark."""
    name, _, folder = benchmark.partition("=")
    out = options.run / f"{name}-{Path(label).stem}.json"
    command = [sys.executable, "-m", "kbnet", "evaluate", "--benchmark", name, "--model", model, "-o", str(out)]
    command += ["--overwrite", "--quiet", "--device", options.device]
    command += (["--data", folder] if folder else []) + (["--limit", str(options.limit)] if options.limit else [])
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode:
        print(f"{name} could not be measured: {child.stderr.strip()}", flush=True)
        return {}
    return measured_figures(json.loads(out.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
