"""Draw docs/operator-speed.png and docs/network-speed.png from the results of operator_sweep.py and networks.py.

    python benchmarks/plot.py [--results FOLDER] [--output FOLDER]

Skips a figure if its results are missing. Uses the colour-blind safe palette of Okabe and Ito.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from facts import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
GREY, ORANGE, BLUE, SKY, GREEN, LIME = "#8C8C8C", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#F0E442"
# Bars for a size and a pass: dtype and implementation.
OPERATOR = {
    ("float32", "published formula"): ("published formula, float32", GREY),
    ("float32", "reference"): ("reference, float32", ORANGE),
    ("float32", "native"): ("native, float32", BLUE),
    ("bfloat16", "native"): ("native, bfloat16", SKY),
}
PASSES = ("forward", "forward and backward")
# Bars for a network and a size: the first available of these runs.
NETWORK = {
    ("published formula, float32", GREY): ("published formula",),
    ("reference operator, float32", ORANGE): ("reference",),
    ("native operator, layer by layer, float32", GREEN): ("float32, layer by layer",),
    ("native operator, layer by layer, bfloat16", LIME): ("bfloat16, layer by layer",),
    ("native, float32", BLUE): ("float32", "native"),
    ("native, bfloat16", SKY): ("bfloat16",),
}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results files")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the images")
    options = parser.parse_args()
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    for name, draw in (("operator", draw_operator), ("network", draw_networks)):
        results = options.results / ("operator.json" if name == "operator" else "networks.json")
        if not results.exists():
            print(f"{name}-speed.png skipped: there is no {results.name}")
            continue
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{name}-speed.png"
        draw(json.loads(results.read_text(encoding="utf-8")), path)
        print(path)


def draw_operator(results: Row, path: Path) -> None:
    """Operations per second: one row of panels per network, one for the sweeps; one column per pass."""
    networks = list(dict.fromkeys(row["set"] for row in results["rows"]))
    networks = [name for name in networks if name not in ("bases", "group channels")]
    figure, axes = plt.subplots(len(networks) + 1, 2, figsize=(11, 2.6 * len(networks) + 3.6), sharey=True)
    for panels, network in zip(axes, networks, strict=False):
        for panel, name in zip(panels, PASSES, strict=True):
            rows = _rows(results, network, name)
            bars(panel, [f"{r['channels']}\n{r['side']}²" for r in rows["float32"]], operator_bars(rows))
            rates(panel, rows)
            panel.set_title(f"{network}, {name}", loc="left", fontweight="bold")
        first = rows["float32"][0]
        panels[0].set_ylabel("GFLOP/s")
        panels[0].annotate(
            f"N={first['bases']}, G={first['group_channels']}", (1, 1), (0, 3), "axes fraction", "offset points",
            ha="right", va="bottom", color="0.35",
        )  # fmt: skip
        for panel in panels:
            panel.set_xlabel("channels, image", labelpad=2)
    for panel, (sweep, key, letter) in zip(
        axes[-1], (("bases", "bases", "N"), ("group channels", "group_channels", "G")), strict=True
    ):
        rows = _rows(results, sweep, "forward")
        if letter == "G":  # the networks' G is in the sweep of N
            more = _rows(results, "bases", "forward")
            same = {d: [r for r in more[d] if r["bases"] == rows[d][0]["bases"]] for d in more}
            rows = {d: sorted(rows[d] + same[d], key=lambda r: r[key]) for d in rows}
        for (dtype, implementation), (label, colour) in OPERATOR.items():
            found = [(r[key], r["runs"][implementation].get("gflops")) for r in rows[dtype]]
            panel.plot(*zip(*found, strict=True), "o-", color=colour, label=label, markersize=4)
        panel.set_xscale("log", base=2)
        panel.set_xticks([r[key] for r in rows["float32"]], [str(r[key]) for r in rows["float32"]])
        panel.minorticks_off()
        rates(panel, rows)
        panel.grid(axis="y", color="0.9")
        first = rows["float32"][0]
        fixed = f"G={first['group_channels']}" if letter == "N" else f"N={first['bases']}"
        panel.set_title(
            f"by {letter}, forward ({first['channels']} channels, {first['side']}², {fixed})",
            loc="left", fontweight="bold",
        )  # fmt: skip
        panel.set_xlabel({"N": "N, bases", "G": "G, channels per group"}[letter])
    axes[-1][0].set_ylabel("GFLOP/s")
    axes[0][0].set_ylim(0)
    finish(figure, axes[0][0], "Kernel basis attention: floating-point operations per second", results, path)


def operator_bars(rows: dict[str, list[Row]]) -> dict[tuple[str, str], list[float | None]]:
    """Heights by (label, colour)."""
    return {
        style: [r["runs"][implementation].get("gflops") for r in rows[dtype]]
        for (dtype, implementation), style in OPERATOR.items()
    }


def rates(panel: Axes, rows: dict[str, list[Row]]) -> None:
    """Lines for the machine's matrix product, measured with each size: the median."""
    for dtype, dashes in (("float32", "--"), ("bfloat16", ":")):
        measured = sorted(row["matmul_gflops"] for row in rows[dtype])
        panel.axhline(
            measured[len(measured) // 2], color="black", linestyle=dashes, linewidth=1.1, label=f"torch matmul, {dtype}"
        )


def draw_networks(results: Row, path: Path) -> None:
    """Seconds and memory: one row of panels per network."""
    networks = list(dict.fromkeys(row["network"] for row in results["rows"]))
    figure, axes = plt.subplots(len(networks), 2, figsize=(11, 2.9 * len(networks) + 1.2), squeeze=False)
    for panels, network in zip(axes, networks, strict=True):
        rows = [row for row in results["rows"] if row["network"] == network]
        for panel, key, unit, scale in (
            (panels[0], "seconds", "seconds", 1.0),
            (panels[1], "activation_megabytes", "activation memory, GB", 1e-3),
        ):
            heights = {style: [_value(row, runs, key, scale) for row in rows] for style, runs in NETWORK.items()}
            bars(panel, [_work(row) for row in rows], heights, number, log=True)
            panel.set_ylabel(unit)
            panel.set_title(network, loc="left", fontweight="bold")
    finish(figure, axes[0][0], "Whole networks, one image or one batch", results, path)


def bars(
    panel: Axes,
    names: Sequence[str],
    heights: dict[tuple[str, str], list[float | None]],
    text: Callable[[float], str] | None = None,
    log: bool = False,
) -> None:
    """Grouped bars; missing bars leave no gap."""
    for group in range(len(names)):
        there = [(style, values[group]) for style, values in heights.items() if values[group] is not None]
        width = 0.82 / max(len(there), 1 if log else len(heights))
        for i, ((label, colour), height) in enumerate(there):
            where = group + (i - (len(there) - 1) / 2) * width
            bar = panel.bar(where, height, width * 0.94, color=colour, label=label)
            if text is not None:
                panel.bar_label(bar, [text(height)], fontsize=7, padding=2, rotation=90)  # type: ignore[arg-type]
    panel.set_xticks(range(len(names)), names)
    panel.tick_params(axis="x", length=0)
    panel.grid(axis="y", color="0.9")
    if log:
        panel.set_yscale("log")
        panel.margins(y=0.22)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())


def number(value: float) -> str:
    """Two significant digits, or all integer digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def finish(figure: Any, panel: Axes, title: str, results: Row, path: Path) -> None:
    """Add the title, the machine and a common legend; write the image."""
    facts = results["facts"]
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    height = figure.get_figheight()
    figure.legend(
        handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(0.045, 1 - 0.48 / height),
        ncols=3, frameon=False, columnspacing=1.6,
    )  # fmt: skip
    figure.text(0.05, 1 - 0.12 / height, title, fontsize=13, fontweight="bold", va="top")
    figure.text(
        0.05, 1 - 0.38 / height, f"{facts['processor']}, {facts['threads']} threads, torch {facts['torch']}",
        color="0.35", va="top",
    )  # fmt: skip
    figure.tight_layout(rect=(0.02, 0, 1, 1 - 1.05 / height), h_pad=1.4, w_pad=2)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _rows(results: Row, name: str, pass_name: str) -> dict[str, list[Row]]:
    chosen = [row for row in results["rows"] if (row["set"], row["pass"]) == (name, pass_name)]
    return {dtype: [row for row in chosen if row["dtype"] == dtype] for dtype in ("float32", "bfloat16")}


def _value(row: Row, runs: Sequence[str], key: str, scale: float) -> float | None:
    found = [row["runs"][run][key] for run in runs if run in row["runs"]]
    return found[0] * scale if found and found[0] is not None else None


def _work(row: Row) -> str:
    batch, _, side, _ = row["shape"]
    return f"{side}²" if row["what"] == "forward" else f"training step\n{batch} x {side}²"


if __name__ == "__main__":
    main()
