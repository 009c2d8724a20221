"""The figure of `kbnet inspect model`: one block at work on one image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kbnet.evaluation.inspection import BlockView, Pixel
from kbnet.evaluation.plots import figure_and_canvas

DPI = 110
WIDTH = 15.0  # inches
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis"
_CROP = 24  # side in pixels of the crop around a selected pixel
_GREY = "0.35"


def draw_block(
    view: BlockView, image: NDArray[np.uint8], pixels: Mapping[str, Pixel], *, group: int | None = None, title: str = ""
) -> NDArray[np.uint8]:
    """Draw a block at work.

    Args:
        view: the block, from `kbnet.evaluation.inspection.inspect_block`.
        image: the network's input for display, [H,W] or [H,W,3] uint8.
        pixels: image pixels whose kernels to draw, by name; up to six.
        group: channel group whose kernels and maps to draw; defaults to the one whose kernels vary most.
        title: title of the figure.

    Returns:
        The figure, [H,W,3] uint8.

    Raises:
        MissingExtraError: matplotlib isn't installed.
    """
    group = view.strongest_group() if group is None else group
    aspect = image.shape[0] / image.shape[1]
    bases = len(view.bases)
    columns = 8 if bases > 8 else 4  # columns of maps; kernels are smaller
    rows, kernel_rows = -(-bases // columns), -(-bases // 8)
    map_height = (WIDTH - 1.6) / columns * aspect
    heights = {
        "head": 1.0,
        "image": min(5.5, (WIDTH - 1.2) / 3 * aspect) + 0.35,
        "bases": 0.65 + kernel_rows * 1.75,
        "coefficients": 0.6 + rows * (map_height + 0.3),
        "kernels": 0.6 + 2.5 * len(pixels),
        "branches": 0.7 + 4 * (min(3.2, (WIDTH - 3.4) / 4 * aspect) + 0.2),
    }
    total = sum(heights.values())
    figure, canvas = figure_and_canvas(WIDTH, total, DPI)
    parts = figure.subfigures(len(heights), 1, height_ratios=list(heights.values()))
    panels = dict(zip(heights, parts, strict=True))
    _head(panels["head"], view, group, title)
    _images(panels["image"], view, image, pixels)
    _bases(panels["bases"], view, group, kernel_rows, 8)
    _coefficients(panels["coefficients"], view, pixels, rows, columns)
    _kernels(panels["kernels"], view, image, pixels, group)
    _branches(panels["branches"], view, group)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _heading(part: Any, text: str, explanation: str, height: float | None = None) -> None:
    inches = part.bbox.height / part.figure.dpi
    part.text(0.03, 1 - 0.08 / inches, text, fontsize=12, fontweight="bold", va="top", parse_math=False)
    part.text(0.03, 1 - 0.3 / inches, explanation, fontsize=9, color=_GREY, va="top", parse_math=False)


def _head(part: Any, view: BlockView, group: int, title: str) -> None:
    bases, channels, per_group, k, _ = view.bases.shape
    part.text(
        0.03, 0.78, title or "Kernel basis attention", fontsize=16, fontweight="bold", va="center", parse_math=False
    )
    scale = "the image's resolution" if view.stride == 1 else f"1/{view.stride} of the image's resolution"
    part.text(
        0.03,
        0.3,
        f"block {view.name}, at {scale}: N = {bases} bases of {k} x {k}, C = {channels} channels in groups of "
        f"G = {per_group}; this figure shows group {group} of {channels // per_group} "
        f"(channels {group * per_group} to {group * per_group + per_group - 1})\n"
        "each pixel mixes its own kernel from the same bases:  K(pixel) = sum over n of a_n(pixel) W_n.   "
        "Colour scales end at the 99th percentile.",
        fontsize=10,
        color=_GREY,
        va="center",
        linespacing=1.5,
        parse_math=False,
    )


def _images(part: Any, view: BlockView, image: NDArray[np.uint8], pixels: Mapping[str, Pixel]) -> None:
    grid = part.add_gridspec(1, 3, left=0.03, right=0.945, top=0.93, bottom=0.02, wspace=0.04)
    given = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    restored = np.clip(_array(view.output).transpose(1, 2, 0), 0, 1)
    restored = restored[..., 0] if restored.shape[2] == 1 else restored
    change = np.abs(restored - given.astype(np.float32) / 255)
    change = change.mean(2) if change.ndim == 3 else change
    shown: list[tuple[str, Any, dict[str, Any]]] = [
        ("input, and the selected pixels", given, {"cmap": "gray", "vmin": 0, "vmax": 255}),
        ("restored by the whole network", restored, {"cmap": "gray", "vmin": 0, "vmax": 1}),
        ("change, on a scale of 255", change * 255, {"cmap": SEQUENTIAL, "vmin": 0, "vmax": _end(change * 255)}),
    ]
    for number, (title, pixels_shown, options) in enumerate(shown):
        panel = part.add_subplot(grid[number])
        drawn = panel.imshow(
            pixels_shown, interpolation="none" if min(given.shape[:2]) < 200 else "antialiased", **options
        )
        panel.set_title(title, fontsize=10, loc="left")
        _bare(panel)
        if number == 0:
            _mark(panel, pixels, 1.0, labels=True)
        if number == 2:
            _bar(part, panel, drawn)


def _bases(part: Any, view: BlockView, group: int, rows: int, columns: int) -> None:
    chosen = _group_kernels(view.bases, group)  # [N,G,G,k,k]
    per_group = chosen.shape[1]
    _heading(
        part,
        "Kernel bases W_n",
        f"learned, the same for every image; each panel shows the {per_group} x {per_group} kernels of the group, "
        "with a row per output channel and a column per input channel",
    )
    limit = _end(chosen)
    grid = _grid(part, rows, columns, top=0.62, wspace=0.2)
    for number, mosaic in enumerate(chosen):
        panel = part.add_subplot(grid[number // columns, number % columns])
        drawn = panel.imshow(_mosaic(mosaic), cmap=_diverging(), vmin=-limit, vmax=limit, interpolation="none")
        panel.set_title(f"n = {number}", fontsize=8, pad=3)
        _bare(panel, frame=False)
    _bar_beside(part, drawn, "weight", 0.62)


def _coefficients(part: Any, view: BlockView, pixels: Mapping[str, Pixel], rows: int, columns: int) -> None:
    maps = _array(view.coefficients)
    limit = _end(maps)
    _heading(
        part,
        "Coefficients a_n",
        "predicted for every pixel of this image, one map per basis; unbounded, positive or negative",
    )
    grid = _grid(part, rows, columns, top=0.72, hspace=0.22)
    for number, values in enumerate(maps):
        panel = part.add_subplot(grid[number // columns, number % columns])
        drawn = panel.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="antialiased")
        panel.set_title(f"n = {number}", fontsize=8, pad=3)
        _bare(panel)
        _mark(panel, pixels, 1 / view.stride, size=4.5)
    _bar_beside(part, drawn, "coefficient", 0.72)


def _kernels(part: Any, view: BlockView, image: NDArray[np.uint8], pixels: Mapping[str, Pixel], group: int) -> None:
    _heading(
        part,
        "Effective kernels",
        "the area around a pixel, its coefficients, and the kernel mixed from them; on the right, the difference from "
        "the kernel of the image's mean coefficients",
    )
    columns, rows = view.coefficients.shape[2], view.coefficients.shape[1]
    places = {
        name: (min(x // view.stride, columns - 1), min(y // view.stride, rows - 1)) for name, (x, y) in pixels.items()
    }
    kernels = {name: _group_kernels(view.effective_kernel(at)[0][None], group)[0] for name, at in places.items()}
    mean = (view.coefficients.mean((1, 2))[None] @ view.bases.flatten(1)).unflatten(1, view.bases.shape[1:])
    average = _group_kernels(mean, group)[0]
    limit = _end(np.stack(list(kernels.values())))
    other = _end(np.stack([kernel - average for kernel in kernels.values()]))
    weights = {name: _array(view.coefficients[:, row, column]) for name, (column, row) in places.items()}
    tallest = max(float(np.abs(values).max()) for values in weights.values()) * 1.08 or 1.0
    inches = part.bbox.height / part.figure.dpi
    grid = part.add_gridspec(
        len(pixels), 4, left=0.05, right=0.955, top=1 - 0.75 / inches, bottom=0.25 / inches, wspace=0.16, hspace=0.3,
        width_ratios=(1, 2.6, 1.2, 1.2),
    )  # fmt: skip
    for number, (name, pixel) in enumerate(pixels.items()):
        colour = COLOURS[number % len(COLOURS)]
        around = part.add_subplot(grid[number, 0])
        left, top = pixel[0] - _CROP // 2, pixel[1] - _CROP // 2
        around.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
        around.set_xlim(left - 0.5, left + _CROP + 0.5)
        around.set_ylim(top + _CROP + 0.5, top - 0.5)
        label = name if name[0].isdigit() else f"{name}: {pixel[0]}, {pixel[1]}"
        around.set_title(label, fontsize=10, color=colour, fontweight="bold", loc="left")
        _bare(around)
        _square(around, pixel, view.stride, colour)

        chart = part.add_subplot(grid[number, 1])
        chart.bar(range(len(weights[name])), weights[name], color=colour, width=0.8)
        chart.axhline(0, color="black", linewidth=0.8)
        chart.set_ylim(-tallest, tallest)
        chart.set_xlim(-0.7, len(weights[name]) - 0.3)
        chart.tick_params(labelsize=8)
        chart.spines[["top", "right"]].set_visible(False)
        chart.set_title("coefficients a_n", fontsize=9, loc="left", parse_math=False)
        if number == len(pixels) - 1:
            chart.set_xlabel("basis n", fontsize=9)

        for place, kernel, end, title in (
            (2, kernels[name], limit, "effective kernel K"),
            (3, kernels[name] - average, other, "K minus the mean kernel"),
        ):
            panel = part.add_subplot(grid[number, place])
            drawn = panel.imshow(_mosaic(kernel), cmap=_diverging(), vmin=-end, vmax=end, interpolation="none")
            panel.set_title(title, fontsize=9, loc="left")
            _bare(panel, frame=False)
            _bar(part, panel, drawn)


def _branches(part: Any, view: BlockView, group: int) -> None:
    count, per_group = view.bases.shape[1:3]
    shown = min(4, count)
    start = min(group * per_group, count - shown)
    channels = list(range(start, start + shown))
    _heading(
        part,
        "The three branches and their product",
        "one column per channel; static: the same convolutions everywhere; adaptive: kernel basis attention, scaled "
        "and added to its input; channel: a weight computed from averages",
    )
    rows = {
        "static": view.static,
        "adaptive": view.adaptive,
        "channel": view.channel.expand_as(view.static),
        "product": view.product,
    }
    inches = part.bbox.height / part.figure.dpi
    grid = part.add_gridspec(
        len(rows), len(channels), left=0.05, right=0.93, top=1 - 0.8 / inches, bottom=0.1 / inches, wspace=0.03,
        hspace=0.08,
    )  # fmt: skip
    for down, (name, maps) in enumerate(rows.items()):
        chosen = _array(maps[channels])
        limit = _end(chosen)
        for across, (channel, values) in enumerate(zip(channels, chosen, strict=True)):
            panel = part.add_subplot(grid[down, across])
            drawn = panel.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="antialiased")
            _bare(panel)
            if down == 0:
                panel.set_title(f"channel {channel}", fontsize=9, pad=4)
            if across == 0:
                panel.set_ylabel(name, fontsize=11, fontweight="bold")
            if name == "channel" and view.channel.shape[1:] == (1, 1):
                panel.text(
                    0.5, 0.5, f"{values.flat[0]:.3g}\neverywhere", transform=panel.transAxes, ha="center", va="center",
                    fontsize=10, bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none"},
                )  # fmt: skip
        _bar(part, panel, drawn)


def _group_kernels(bases: Tensor, group: int) -> NDArray[np.floating]:
    """Select the kernels of one group, [N,C,G,k,k] -> [N,G,G,k,k]."""
    per_group = bases.shape[2]
    return _array(bases[:, group * per_group : (group + 1) * per_group])


def _mosaic(kernels: NDArray[np.floating]) -> NDArray[np.floating]:
    """Arrange kernels [rows,columns,k,k] in one image, separated by NaN."""
    rows, columns, k, _ = kernels.shape
    step = k + 1
    picture = np.full((rows * step - 1, columns * step - 1), np.nan, np.float32)
    for row in range(rows):
        for column in range(columns):
            picture[row * step : row * step + k, column * step : column * step + k] = kernels[row, column]
    return picture


def _end(values: NDArray[np.floating]) -> float:
    """Return the end of a colour scale: the 99th percentile, so that outliers don't wash out all other values."""
    return float(np.quantile(np.abs(values), 0.99)) or 1.0


def _array(tensor: Tensor) -> NDArray[np.floating]:
    array: NDArray[np.floating] = tensor.detach().float().cpu().numpy()
    return array


def _diverging() -> Any:
    """Return the diverging colour map, with white for NaN."""
    import matplotlib

    return matplotlib.colormaps[DIVERGING].with_extremes(bad="white")


def _grid(part: Any, rows: int, columns: int, top: float, hspace: float = 0.3, wspace: float = 0.06) -> Any:
    inches = part.bbox.height / part.figure.dpi
    return part.add_gridspec(
        rows, columns, left=0.03, right=0.93, top=1 - top / inches, bottom=0.06 / inches, wspace=wspace, hspace=hspace
    )


def _bar_beside(part: Any, drawn: Any, label: str, top: float) -> None:
    inches = part.bbox.height / part.figure.dpi
    height = min(1 - (top + 0.1) / inches, 3.0 / inches)
    bar = part.add_axes((0.94, 1 - top / inches - height, 0.008, height))
    part.colorbar(drawn, cax=bar, extend="both").set_label(label, fontsize=8)
    bar.tick_params(labelsize=7)


def _bar(part: Any, panel: Any, drawn: Any) -> None:
    """Draw a colour bar next to the panel, at the same height."""
    bar = panel.inset_axes((1.03, 0, 0.035, 1))
    part.colorbar(drawn, cax=bar)
    bar.tick_params(labelsize=7)


def _bare(panel: Any, frame: bool = True) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(frame)
        spine.set_color("0.7")


def _mark(panel: Any, pixels: Mapping[str, Pixel], scale: float, size: float = 11, labels: bool = False) -> None:
    for number, (name, (x, y)) in enumerate(pixels.items()):
        colour = COLOURS[number % len(COLOURS)]
        place = ((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5)  # integer coordinates are at the centres of pixels
        for width, edge in ((3.2, "white"), (1.6, colour)):
            panel.plot(
                *place, "o", markersize=size, markerfacecolor="none", markeredgewidth=width,
                markeredgecolor=edge,
            )  # fmt: skip
        if labels:
            panel.annotate(
                name, place, (8, 8), textcoords="offset points", fontsize=9, fontweight="bold",
                color=colour, bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
            )  # fmt: skip


def _square(panel: Any, pixel: Pixel, stride: int, colour: str) -> None:
    """Outline the image pixels that belong to one pixel of the block."""
    from matplotlib.patches import Rectangle

    corner = (pixel[0] // stride * stride - 0.5, pixel[1] // stride * stride - 0.5)
    panel.add_patch(Rectangle(corner, stride, stride, fill=False, edgecolor=colour, linewidth=2))
