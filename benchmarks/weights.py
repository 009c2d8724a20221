"""Measure all included models on the sets of their tasks with `kbnet evaluate`, and compare with earlier weights.

    python benchmarks/weights.py --data FOLDER [--model NAME ...] [--before NAME=FILE ...]

FOLDER contains the sets by name (CBSD68, BSD68, Set12, polyu-dev, renoir-dev, sidd-dev, Rain100L-dev, Rain100H-dev,
motion-dev). Each result goes to results/MODEL-BENCHMARK-SET.json, results of earlier weights to results/before/ under
the name of the newer model. Existing results for the same weights are not measured again. The table goes to
docs/weights.md. FILE says in its header, or a kbnet.json next to it, what context and window to use. Takes about 15
minutes per compact model.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facts import RESULTS
from kbnet.evaluation import measured_figures
from kbnet.models import CatalogueEntry, catalogue, resolve
from kbnet.models.usage import usage_in

PAGE = RESULTS.parents[1] / "docs" / "weights.md"
NOISE = (
    ("pairs", "polyu-dev"),
    ("pairs", "renoir-dev"),
    ("pairs", "sidd-dev"),
    ("cbsd68", "CBSD68"),
    ("gaussian-8bit", "CBSD68"),
    ("gaussian-jpeg", "CBSD68"),
)
SETS = {
    "denoise": NOISE,
    "denoise-gaussian": (("cbsd68", "CBSD68"),),
    "derain": (("rain100l", "Rain100L-dev"), ("rain100h", "Rain100H-dev")),
    "deblur": (("pairs", "motion-dev"), ("blur", "CBSD68")),
}
GRAY = (("bsd68", "BSD68"), ("set12", "Set12"))
GRAY_NOISE = (
    *(("pairs-gray", name) for name in ("polyu-dev", "renoir-dev", "sidd-dev")),
    ("bsd68", "BSD68"),
    ("gaussian-jpeg", "CBSD68"),
)
CLEAN = (("clean", "CBSD68"), ("charts", ""))
INTRODUCTION = """# Quality of the included weights

PSNR in dB of all included models on the sets of their tasks, measured by `python benchmarks/weights.py`. Rain is
measured on Y, everything else on all channels. "Lowest" is the worst image of a set of clean images, which models must
not change.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", action="append", help="measure only these")
    parser.add_argument("--before", action="append", default=[], metavar="NAME=FILE", help="weights before NAME's")
    options = parser.parse_args()
    before = dict(one.split("=", 1) for one in options.before)
    if silent := [file for file in before.values() if usage_in(Path(file)) is None]:
        parser.error(f"expected the context and window of {silent[0]} in its header, or in a kbnet.json in its folder")
    for name in options.model or catalogue():
        entry = catalogue()[name]
        for benchmark, set_name in sets_of(entry):
            measure(benchmark, set_name, options.data, name, entry, RESULTS)
            if name in before:
                measure(benchmark, set_name, options.data, before[name], entry, RESULTS / "before")
        print(f"\nmetrics of {name} = {json.dumps(figures(entry, RESULTS, entry.sha256))}\n")
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


def sets_of(entry: CatalogueEntry) -> tuple[tuple[str, str], ...]:
    """All (benchmark, set) pairs of a model."""
    if entry.variant == "raw":
        return ()  # benchmarks/raw.py
    gray = GRAY_NOISE if entry.task == "denoise" else GRAY
    return (gray if entry.variant == "gray" else SETS[entry.task]) + CLEAN


def file_of(entry: CatalogueEntry, benchmark: str, set_name: str, folder: Path) -> Path:
    """The path of a model's results on a set."""
    return folder / f"{'-'.join(part for part in (entry.name, benchmark, set_name) if part)}.json"


def measure(benchmark: str, set_name: str, data: Path, model: str, entry: CatalogueEntry, folder: Path) -> None:
    """Run `kbnet evaluate` unless there are results for these weights."""
    target = file_of(entry, benchmark, set_name, folder)
    digest = hashlib.sha256(resolve(model).read_bytes()).hexdigest()
    if target.exists() and json.loads(target.read_text(encoding="utf-8"))["settings"]["sha256"] == digest:
        return
    folder.mkdir(exist_ok=True)
    where = ["--data", str(data / set_name)] if set_name else []
    words = ["evaluate", "--benchmark", benchmark, *where, "--model", model]
    print(" ".join(words), flush=True)
    subprocess.run(
        [sys.executable, "-m", "kbnet", *words, "--quiet", "--overwrite", "--output", str(target)], check=True
    )


def figures(entry: CatalogueEntry, folder: Path, digest: str | None = None) -> dict[str, float]:
    """The figures in a model's results files, by the catalogue's metric names."""
    found: dict[str, float] = {}
    for benchmark, set_name in sets_of(entry):
        path = file_of(entry, benchmark, set_name, folder)
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if results is None or digest not in (None, results["settings"]["sha256"]):
            continue
        found |= {name: value for name, value in measured_figures(results).items() if told(name, benchmark)}
    return {name: round(value, 2) for name, value in found.items() if math.isfinite(value)}


def told(name: str, benchmark: str) -> bool:
    """Whether to include a figure: the lowest of clean images, otherwise means and those of inputs."""
    return name.endswith(", lowest") == (benchmark in ("clean", "charts")) or name.endswith(" clean")


def page() -> str:
    """The table of all models, from the existing results."""
    lines = [INTRODUCTION, *table()]
    return "\n".join(lines) + "\n"


def table() -> Iterator[str]:
    """One row per figure; those of earlier weights are in a column of their own, if there are any."""
    earlier = {entry.name: figures(entry, RESULTS / "before") for entry in catalogue().values()}
    columns = ["input", *(["before"] if any(earlier.values()) else []), "result"]
    yield f"| model | measured on | {' | '.join(columns)} |"
    yield "|" + "---|" * (2 + len(columns))
    for entry in catalogue().values():
        now = figures(entry, RESULTS, entry.sha256)
        for name in now:
            if not name.endswith(", input"):
                values = {
                    "input": now.get(f"{name}, input"),
                    "before": earlier[entry.name].get(name),
                    "result": now[name],
                }
                yield f"| `{entry.name}` | {name} | {' | '.join(cell(values[column]) for column in columns)} |"


def cell(value: Any) -> str:
    """A figure, or an empty cell."""
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
