"""Draw the learning curves of the included models and the sweeps of variants.

    python benchmarks/curves.py --run denoise=runs/denoise-nano --run derain=runs/derain-nano ...

Copies losses and validations of each run from its metrics.jsonl to benchmarks/results/learning-curves.json, keeps the
curves of other runs there, and draws docs/learning-curves.png. For each sweep*.json written by sweep.py, draws
docs/sweep*.png and writes the table in docs/training.md. Without --run, it uses the existing results.

The score of a run is the gain over the degraded input, in dB, on validation photos. Photos and degradations differ
between tasks, so their curves can't be compared in height.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from facts import RESULTS, write

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
POINTS = 100
"""Number of losses in a curve; each is a mean over a part of the run."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER", help="a run's folder")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the images")
    options = parser.parse_args()
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    options.output.mkdir(parents=True, exist_ok=True)

    path = options.results / "learning-curves.json"
    runs: dict[str, Row] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
    for text in options.run:
        name, _, folder = text.partition("=")
        runs[name] = curve(Path(folder))
    if options.run:
        write("learning-curves", {"runs": runs}, options.results)
    if runs:
        draw_curves(runs, options.output / "learning-curves.png")
    page = options.output / "training.md"
    for sweep in sorted(options.results.glob("sweep*.json")):
        results = json.loads(sweep.read_text(encoding="utf-8"))
        draw_sweep(results, options.output / f"{sweep.stem}.png")
        if page.exists():
            page.write_text(with_table(page.read_text(encoding="utf-8"), results, sweep.stem), encoding="utf-8")


def curve(folder: Path) -> Row:
    """Losses and validations of a run, with fewer points."""
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
    stretch = -(-len(losses) // POINTS)
    parts = [losses[i : i + stretch] for i in range(0, len(losses), stretch)]
    checks = [entry for entry in entries if "psnr" in entry]
    return {
        "loss": [[part[-1][0], round(sum(loss for _, loss in part) / len(part), 6)] for part in parts],
        "psnr": [[entry["step"], {name: round(value, 3) for name, value in entry["psnr"].items()}] for entry in checks],
        "input_psnr": {name: round(value, 3) for name, value in checks[-1]["input_psnr"].items()} if checks else {},
    }


def draw_curves(runs: dict[str, Row], path: Path) -> None:
    """One row per run: its loss, and the gain over the input at each validation."""
    figure, axes = plt.subplots(len(runs), 2, figsize=(10, 2.3 * len(runs) + 0.4), squeeze=False)
    for (left, right), (name, run) in zip(axes, runs.items(), strict=True):
        left.plot(*zip(*run["loss"], strict=True), color=COLOURS[0], linewidth=1.2)
        left.set_title(f"{name}: loss of training", loc="left", fontweight="bold")
        for colour, protocol in zip(COLOURS, run["input_psnr"], strict=False):
            gains = [(step, scores[protocol] - run["input_psnr"][protocol]) for step, scores in run["psnr"]]
            right.plot(*zip(*gains, strict=True), "o-", color=colour, markersize=3, linewidth=1.2)
            right.annotate(
                f"{protocol}, from {run['input_psnr'][protocol]:.2f} dB", gains[-1], (4, 0), "data", "offset points",
                color=colour, va="center", fontsize=8,
            )  # fmt: skip
        right.set_title("gain on photos held out, dB", loc="left", fontweight="bold")
        for panel in (left, right):
            panel.set_xlabel("step")
            panel.grid(axis="y", color="0.9")
    figure.tight_layout(h_pad=1.2, w_pad=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(path)


def draw_sweep(results: Row, path: Path) -> None:
    """PSNR of all variants, the best on top, compared with the unchanged recipe."""
    rows = sorted(results["rows"], key=lambda row: row["mean_psnr"])
    figure, panel = plt.subplots(figsize=(8, 0.3 * len(rows) + 1.2))
    base = next((row["mean_psnr"] for row in rows if row["variant"] == results["rows"][0]["variant"]), None)
    scores = [row["mean_psnr"] for row in rows]
    bars = panel.barh([row["variant"] for row in rows], scores, color=COLOURS[0], height=0.7)
    panel.bar_label(bars, [f"{row['mean_psnr']:.2f}  ({row['steps']} steps)" for row in rows], padding=3, fontsize=8)
    if base is not None:
        panel.axvline(base, color="black", linestyle="--", linewidth=1)
    span = max(scores) - min(scores) or 1.0
    panel.set_xlim(min(scores) - 0.1 * span, max(scores) + 0.3 * span)
    describe(panel, results)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(path)


def with_table(page: str, results: Row, name: str) -> str:
    """The page with a sweep's table between its two marks, the best variant first; unchanged if there are no marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        return page
    sigmas = list(results["rows"][0]["psnr"])
    lines = [
        f"| variant | kMACs per pixel | steps | {' | '.join(sigmas)} | mean |",
        "|---|---|---|" + "---|" * (len(sigmas) + 1),
    ]
    for row in sorted(results["rows"], key=lambda row: -row["mean_psnr"]):
        scores = " | ".join(f"{row['psnr'][sigma]:.2f}" for sigma in sigmas)
        lines.append(
            f"| {row['variant']} | {row['macs_per_pixel'] / 1e3:.1f} | {row['steps']} | {scores} | "
            f"{row['mean_psnr']:.2f} |"
        )
    return head + begin + "\n" + "\n".join(lines) + "\n" + end + tail


def describe(panel: Axes, results: Row) -> None:
    """Title and axis of the sweep."""
    panel.set_title(
        f"{results['recipe']} from random weights, {results['budget']}",
        loc="left", fontweight="bold",
    )  # fmt: skip
    panel.set_xlabel("PSNR on photos held out, mean over sigma 15, 25 and 50, dB")


if __name__ == "__main__":
    main()
