"""Synthetic images: flat areas, gradients, stripes, checkerboards, text, lines and points in random colours.

Photos contain little of this, and networks trained on photos alone can produce artefacts on screenshots,
scanned print, clipped skies and night shots.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kbnet.data.photos import Pixels

Mask = NDArray[np.floating[Any]]
"""[H,W] in [0,1]: the share of the second of two colours in each pixel."""


def draw_pictures(count: int, side: int, channels: int, seed: int = 0) -> list[Pixels]:
    """Draw square images of four fields each. Deterministic for the same arguments.

    Args:
        count: number of images.
        side: side of an image in pixels.
        channels: 3 for [H,W,3], 1 for [H,W].
        seed: seed of all random choices.

    Returns:
        `count` uint8 arrays.
    """
    rng = np.random.default_rng(seed)
    return [_picture(side, channels, rng) for _ in range(count)]


def _picture(side: int, channels: int, rng: Generator) -> Pixels:
    picture = np.empty((side, side, channels))
    row, column = (int(side * rng.uniform(0.35, 0.65)) for _ in range(2))
    for rows in (slice(0, row), slice(row, side)):
        for columns in (slice(0, column), slice(column, side)):
            field = picture[rows, columns]
            mask = _KINDS[rng.integers(len(_KINDS))](field.shape[0], field.shape[1], rng)[..., None]
            field[:] = (1 - mask) * _colour(channels, rng) + mask * _colour(channels, rng)
    pixels: Pixels = np.rint(picture * 255).astype(np.uint8)
    return pixels if channels == 3 else pixels[..., 0]


def _colour(channels: int, rng: Generator) -> NDArray[np.float64]:
    """Return black, white or a primary colour often, as values are clipped there; else any colour."""
    kind = rng.random()
    if kind < 0.35:
        return np.full(channels, float(rng.integers(2)))
    if kind < 0.5:
        return rng.integers(2, size=channels).astype(np.float64)
    if kind < 0.6:
        return np.full(channels, rng.uniform(0, 0.06))
    return rng.uniform(size=channels)


def _flat(height: int, width: int, rng: Generator) -> Mask:
    return np.zeros((height, width))


def _gradient(height: int, width: int, rng: Generator) -> Mask:
    across = _along(height, width, rng)
    mask: Mask = (across - across.min()) / max(float(np.ptp(across)), 1.0)
    return mask


def _stripes(height: int, width: int, rng: Generator) -> Mask:
    period = rng.uniform(2.5, 24)
    return _edge(np.abs(_along(height, width, rng) % period - period / 2) - period * rng.uniform(0.1, 0.4))


def _checkerboard(height: int, width: int, rng: Generator) -> Mask:
    cell = int(rng.choice([1, 2, 2, 3, 4, 6, 8, 12, 16]))
    y, x = np.mgrid[:height, :width]
    mask: Mask = ((y // cell + x // cell) % 2).astype(np.float64)
    return mask


def _text(height: int, width: int, rng: Generator) -> Mask:
    """Rows of random characters of 3x5 to 5x7 dots; a dot is one to four pixels wide."""
    dot, tall, wide = int(rng.integers(1, 5)), int(rng.integers(5, 8)), int(rng.integers(3, 6))
    alphabet = rng.random((24, tall, wide)) < 0.45
    down, across = height // (dot * (tall + 2)) + 1, width // (dot * (wide + 1)) + 1
    characters = alphabet[rng.integers(len(alphabet), size=(down, across))] & (rng.random((down, across, 1, 1)) < 0.85)
    spaced = np.pad(characters, ((0, 0), (0, 0), (1, 1), (0, 1)))
    dots = spaced.transpose(0, 2, 1, 3).reshape(down * (tall + 2), across * (wide + 1))
    mask: Mask = np.kron(dots, np.ones((dot, dot)))[:height, :width]
    return mask


def _lines(height: int, width: int, rng: Generator) -> Mask:
    """Thin straight lines in all directions, and circles, with antialiased edges."""
    mask = np.zeros((height, width))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    for _ in range(rng.integers(3, 14)):
        half = rng.uniform(0.4, 1.6)
        if rng.random() < 0.6:
            along = _along(height, width, rng)
            distance = np.abs(along - rng.uniform(along.min(), along.max()))
        else:
            centre = rng.uniform(0, height), rng.uniform(0, width)
            distance = np.abs(np.hypot(y - centre[0], x - centre[1]) - rng.uniform(3, max(height, width)))
        mask = np.maximum(mask, _edge(distance - half))
    return mask


def _points(height: int, width: int, rng: Generator) -> Mask:
    return (rng.random((height, width)) < rng.uniform(0.002, 0.03)).astype(np.float64)


def _shapes(height: int, width: int, rng: Generator) -> Mask:
    """Overlapping half-planes, which form polygons of all sizes."""
    mask = np.zeros((height, width))
    for _ in range(rng.integers(1, 6)):
        along = _along(height, width, rng)
        mask = np.abs(mask - _edge(along - rng.uniform(along.min(), along.max())))
    return mask


def _along(height: int, width: int, rng: Generator) -> Mask:
    """Return the position of each pixel along a direction, in pixels. Half of the directions are axis-aligned."""
    angle = rng.integers(4) * np.pi / 2 if rng.random() < 0.5 else rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    along: Mask = x * np.cos(angle) + y * np.sin(angle) + rng.uniform()
    return along


def _edge(distance: Mask) -> Mask:
    """Return 1 inside (negative distances) and 0 outside, with an edge one pixel wide."""
    mask: Mask = np.clip(0.5 - distance, 0, 1)
    return mask


_KINDS: tuple[Callable[[int, int, Generator], Mask], ...] = (
    _flat,
    _gradient,
    _stripes,
    _checkerboard,
    _text,
    _lines,
    _points,
    _shapes,
)
