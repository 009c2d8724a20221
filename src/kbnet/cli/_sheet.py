"""Contact sheets: panels computed first, then drawn with matplotlib."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import MissingExtraError
from kbnet.imaging import Photo, over_white, to_depth

# Degradations by their names in recipes, with the label and settings of each severity.
_RAIN = {"jpeg_share": 0}
_STILL = {"turning_share": 0, "object_share": 0, "highlight_gain": 1}
SEVERITIES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "gaussian": (
        ("sigma 15", {"sigma": 15}),
        ("sigma 25", {"sigma": 25}),
        ("sigma 50", {"sigma": 50}),
        ("sigma 0 to 55, varying", {"sigma": [0, 55], "varying_share": 1}),
    ),
    "camera-noise": (
        ("shot noise 0.0003", {"shot": 3e-4, "smoothed_share": 0, "jpeg_share": 0}),
        ("shot noise 0.004", {"shot": 4e-3, "smoothed_share": 0, "jpeg_share": 0}),
        ("the same, smoothed", {"shot": 4e-3, "smoothed_share": 1, "jpeg_share": 0, "chroma_smoothing": [1, 2]}),
        ("shot noise 0.015, JPEG", {"shot": 1.5e-2, "smoothed_share": 1, "jpeg_share": 1}),
    ),
    "photo-noise": tuple((f"random sample {number}", {}) for number in (1, 2, 3, 4)),
    "raw-noise": tuple((f"shot noise {shot:g}", {"shot": shot}) for shot in (3e-4, 3e-3, 1e-2, 3e-2)),
    "rain": (
        ("light", {"heavy_share": 0, "short_share": 0, **_RAIN}),
        ("short", {"light_share": 0, "heavy_share": 0, **_RAIN}),
        ("heavy", {"light_share": 0, "short_share": 0, **_RAIN}),
        ("heavy, severity 1.5", {"light_share": 0, "short_share": 0, "severity": 1.5, **_RAIN}),
    ),
    "defocus": (
        ("radius 1.5", {"radius": 1.5, "varying_share": 0, "layer_share": 0}),
        ("radius 5", {"radius": 5, "varying_share": 0, "layer_share": 0}),
        ("radius 0 to 8, varying", {"radius": [0, 8], "varying_share": 1, "layer_share": 0}),
        ("radius 0 to 8, two layers", {"radius": [0, 8], "varying_share": 0, "layer_share": 1}),
    ),
    "motion": (
        ("path of 8 pixels", {"length": 8, **_STILL}),
        ("path of 30 pixels", {"length": 30, **_STILL}),
        ("turning", {"length": 20, "turning": 1, **_STILL, "turning_share": 1}),
        ("moving object", {"length": [0, 30], **_STILL, "object_share": 1}),
    ),
    "jpeg": tuple((f"quality {quality}", {"quality": quality}) for quality in (90, 50, 20, 10)),
    "blur": tuple((f"random sample {number}", {}) for number in (1, 2, 3, 4)),
}

_PIXELS_PER_POINT = 100 / 72


@dataclass(frozen=True)
class Panel:
    """One panel of a sheet: `pixels` [H,W] or [H,W,3] uint8, and its title."""

    pixels: NDArray[np.uint8]
    title: str


def degradation_panels(photo: Photo, *, seed: int, size: int) -> list[list[Panel]]:
    """One row of panels per degradation: the centre of the photo, then each severity with its PSNR."""
    from kbnet.data.photos import to_tensor
    from kbnet.degradations import create_degradation
    from kbnet.metrics import psnr, to_uint8
    from kbnet.needs_torch import torch

    pixels = photo.pixels if photo.alpha is None else over_white(photo.pixels, photo.alpha)
    shown = _middle(to_depth(pixels, 8).astype(np.uint8, copy=False), size)
    clean = to_tensor(shown)
    rows = []
    for kind, severities in SEVERITIES.items():
        row = [Panel(shown, kind)]
        for number, (label, settings) in enumerate(severities):
            # one seed per row, so that only the severity differs within a row
            generator = torch.Generator().manual_seed(seed * 1_000_003 + (0 if settings else number))
            degraded = create_degradation(kind, **settings)(clean, generator)
            array = degraded.permute(1, 2, 0).numpy()
            # Gaussian noise is not clipped, so neither is its PSNR
            score = psnr(array, clean.permute(1, 2, 0).numpy(), peak=1.0)
            visible = to_uint8(array)
            row.append(Panel(visible[..., 0] if shown.ndim == 2 else visible, f"{label}: {score:.1f} dB"))
        rows.append(row)
    return rows


def draw(rows: list[list[Panel]]) -> NDArray[np.uint8]:
    """The sheet [H,W,3]; panels keep their pixels, and small ones are enlarged by a whole factor.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("matplotlib", "eval") from None

    height, width = rows[0][0].pixels.shape[:2]
    zoom = max(1, round(200 / max(height, width)))
    gap, band, text = 8, 26, 9  # pixels between panels, height of a title in pixels, font size in points
    cell_width, cell_height = max(width * zoom, 200) + gap, height * zoom + band
    columns = max(map(len, rows))
    dpi = 72 * _PIXELS_PER_POINT
    whole = (columns * cell_width + gap, len(rows) * cell_height + gap)
    # not pyplot, which keeps figures and selects a GUI backend
    figure = Figure(figsize=(whole[0] / dpi, whole[1] / dpi), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for down, row in enumerate(rows):
        for across, panel in enumerate(row):
            left, top = gap + across * cell_width, gap + down * cell_height
            figure.text(
                left / whole[0],
                1 - (top + band / 2 - gap / 2) / whole[1],
                panel.title,
                fontsize=text,
                va="center",
                weight="normal" if across else "bold",
                parse_math=False,
            )
            pixels = panel.pixels.repeat(zoom, 0).repeat(zoom, 1)
            colour = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
            figure.figimage(colour, left, whole[1] - top - band + gap - colour.shape[0], origin="upper")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _middle(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    top, left = (max(0, (side - size) // 2) for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]
