"""Synthetic test charts: flat, dark, clipped, saturated or finely drawn images that can trigger artefacts.

Published weights of this family are known to produce coloured blotches on flat white and dark areas. A network should
leave a clean chart unchanged, so the output is compared with the input.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kbnet.evaluation.samples import Image, Request, Sample, Target, to_float

HEIGHT, WIDTH = 160, 224
"""Size of a chart in pixels; not a multiple of 64, so that padding is tested too."""

Chart = NDArray[np.float64]
"""Chart [H,W,3] with values in [0,1]."""


def charts() -> dict[str, Chart]:
    """Draw all charts, by name, in the order of evaluation."""
    return {name: np.broadcast_to(draw(), (HEIGHT, WIDTH, 3)).astype(np.float64) for name, draw in _CHARTS.items()}


def chart_samples(request: Request) -> list[Sample]:
    """Create samples whose input and target are the chart; those with names ending in "16-bit" keep 65,536 levels."""

    def load(name: str, chart: Chart) -> tuple[Image, Target]:
        deep = name.endswith("16-bit")
        target: Target = np.rint(chart * (65535 if deep else 255)).astype(np.uint16 if deep else np.uint8)
        if request.channels == 1:
            target = np.ascontiguousarray(target[..., 1])
        return to_float(target), target

    drawn = charts().items()
    return [Sample(name, ("clean",), partial(load, name, chart), (chart,), made=True) for name, chart in drawn]


def _grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    return y, x


def _flat(red: float, green: float, blue: float) -> Chart:
    return np.array([red, green, blue]) / 255


def _gradient(low: float, high: float) -> Chart:
    x = np.linspace(low, high, WIDTH)
    return np.broadcast_to(x[None, :, None], (HEIGHT, WIDTH, 3)) / 255


def _hues() -> Chart:
    """Draw all hues at full saturation from left to right, from full brightness to black from top to bottom."""
    y, x = _grid()
    position = x / WIDTH * 6
    channels = [np.clip(np.abs((position + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    return np.stack(channels, axis=2) * (1 - y / HEIGHT)[..., None]


def _checkerboard(cell: int) -> Chart:
    y, x = _grid()
    return ((y // cell + x // cell) % 2)[..., None]


def _halves() -> Chart:
    """Draw clipped black next to clipped white, in both directions."""
    y, x = _grid()
    return ((y < HEIGHT / 2) ^ (x < WIDTH / 2)).astype(np.float64)[..., None]


def _points(ground: float, point: float) -> Chart:
    """Draw single pixels far apart, like stars."""
    image = np.full((HEIGHT, WIDTH, 1), ground)
    image[7::23, 11::29] = point
    return image


def _line_art() -> Chart:
    """Draw rays one pixel wide, and circles, black on white with smooth edges."""
    y, x = _grid()
    y, x = y - HEIGHT / 2, x - WIDTH / 2
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    rays = np.abs(np.sin(6 * angle)) * radius / 6
    circles = np.abs((radius + 8) % 16 - 8)
    chart: Chart = np.clip(np.minimum(rays, circles), 0, 1)[..., None]
    return chart


# Glyphs of 5x7 dots, one integer per column; the lowest bit is the top row.
_GLYPHS = {
    "K": (0x7F, 0x08, 0x14, 0x22, 0x41),
    "B": (0x7F, 0x49, 0x49, 0x49, 0x36),
    "N": (0x7F, 0x04, 0x08, 0x10, 0x7F),
    "E": (0x7F, 0x49, 0x49, 0x49, 0x41),
    "T": (0x01, 0x01, 0x7F, 0x01, 0x01),
    "4": (0x18, 0x14, 0x12, 0x7F, 0x10),
    "2": (0x42, 0x61, 0x51, 0x49, 0x46),
    " ": (0, 0, 0, 0, 0),
}


def _text(size: int) -> Chart:
    """Draw lines of text with dots of `size` pixels, black on white."""
    columns = [column for character in "KBNET 42 " for column in (*_GLYPHS[character], 0)]
    dots = np.array([[column >> row & 1 for column in columns] for row in range(10)])
    line = np.kron(dots, np.ones((size, size)))
    tiled = np.tile(line, (HEIGHT // line.shape[0] + 1, WIDTH // line.shape[1] + 1))
    return 1 - tiled[:HEIGHT, :WIDTH, None]


_CHARTS: dict[str, Callable[[], Chart]] = {
    "white": partial(_flat, 255, 255, 255),
    "nearly white": partial(_flat, 252, 253, 252),
    "gray": partial(_flat, 128, 128, 128),
    "nearly black": partial(_flat, 3, 2, 3),
    "black": partial(_flat, 0, 0, 0),
    "red": partial(_flat, 255, 0, 0),
    "green": partial(_flat, 0, 255, 0),
    "blue": partial(_flat, 0, 0, 255),
    "gradient": partial(_gradient, 0, 255),
    "dark gradient": partial(_gradient, 0, 20),
    "dark gradient, 16-bit": partial(_gradient, 0, 4),
    "gradient, 16-bit": partial(_gradient, 0, 255),
    "hues": _hues,
    "black and white halves": _halves,
    "checkerboard of 8 pixels": partial(_checkerboard, 8),
    "checkerboard of 2 pixels": partial(_checkerboard, 2),
    "white points on black": partial(_points, 0.0, 1.0),
    "black points on white": partial(_points, 1.0, 0.0),
    "line art": _line_art,
    "small text": partial(_text, 1),
    "large text": partial(_text, 3),
}
