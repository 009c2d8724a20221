"""Plots of results, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kbnet import files
from kbnet.errors import MissingExtraError

# The Okabe-Ito palette, which is safe for colour blindness; marker shapes distinguish methods in print.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#8C8C8C", "#000000")
MARKERS = ("s", "^", "D", "v", "P", "X")
OURS = "#D55E00"


def figure_and_canvas(width: float, height: float, dpi: float) -> tuple[Any, Any]:
    """Create a matplotlib figure, with its size in inches, and its canvas.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "eval") from None
    # Not pyplot, which keeps figures alive and selects a GUI backend.
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def quality_against_time(results: Mapping[str, Any], path: Path, note: str = "") -> None:
    """Plot mean PSNR against seconds per megapixel: a row of panels for each set, a panel for each sigma.

    Args:
        results: the file of `kbnet.evaluation.comparison.Comparison`; its `methods` and `summary` are used.
        path: path of the image to write.
        note: a line below the title, such as the machine.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    summary: Sequence[Mapping[str, Any]] = results["summary"]
    sets = list(dict.fromkeys(row["set"] for row in summary))
    sigmas = sorted({row["sigma"] for row in summary})
    figure, canvas = figure_and_canvas(1.2 + 3.5 * len(sigmas), 1.5 + 3.0 * len(sets), 130)
    axes = figure.subplots(len(sets), len(sigmas), squeeze=False, sharex=True)
    styles = _styles(results["methods"])
    for panels, name in zip(axes, sets, strict=True):
        for panel, sigma in zip(panels, sigmas, strict=True):
            rows = [row for row in summary if (row["set"], row["sigma"]) == (name, sigma)]
            for row in rows:
                style = styles[row["method"]]
                panel.plot(row["seconds"], row["psnr"], linestyle="none", clip_on=False, **style)
            panel.set_xscale("log")
            panel.margins(x=0.12, y=0.14)
            panel.grid(color="0.92")
            panel.spines[["top", "right"]].set_visible(False)
            images = sorted({row["images"] for row in rows})
            counted = "–".join(map(str, dict.fromkeys((images[0], images[-1])))) if images else "no"
            panel.set_title(f"{name}, sigma {sigma:g}", loc="left", fontsize=10, fontweight="bold")
            noun = "image" if counted == "1" else "images"
            panel.set_title(f"{counted} {noun}", loc="right", fontsize=8, color="0.4")
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panels[0].set_ylabel("PSNR, dB")
    for panel in axes[-1]:
        panel.set_xlabel("seconds per megapixel (log scale)")
    height = figure.get_figheight()
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.text(0.02, 1 - 0.1 / height, "Denoising: quality against time", fontsize=13, fontweight="bold", va="top")
    figure.text(
        0.02,
        1 - 0.36 / height,
        "better is up and to the left; peers are given sigma, networks (circles) aren't\n"
        f"noise not clipped, results rounded to 8 bits; {note}",
        fontsize=8.5,
        color="0.35",
        va="top",
    )
    columns = max(1, int(figure.get_figwidth() / 2.6))
    figure.legend(
        handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(0.012, 1 - 0.68 / height), frameon=False,
        ncols=columns, fontsize=9, columnspacing=1.4, handletextpad=0.3,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 1 - (0.75 + 0.24 * -(-len(handles) // columns)) / height), w_pad=1.5)
    canvas.draw()
    files.make_folder(path.parent)
    with files.writing(path, overwrite=True) as file:
        figure.savefig(file, dpi=130, format=path.suffix.removeprefix(".") or "png")


def _styles(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Choose marker, colour and label of each method; networks are large circles."""
    styles = {}
    others = 0
    networks = 0
    for name, facts in methods.items():
        if facts["told_sigma"]:
            style = {"marker": MARKERS[others % len(MARKERS)], "color": COLOURS[others % len(COLOURS)], "markersize": 7}
            others += 1
        else:
            style = {"marker": "o", "color": (OURS, "#0072B2", "#F0E442")[networks % 3], "markersize": 10}
            networks += 1
        styles[name] = {**style, "label": facts["label"], "markeredgecolor": "white", "markeredgewidth": 0.8}
    return styles
