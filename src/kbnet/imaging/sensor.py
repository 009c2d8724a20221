"""The noise of a camera's sensor, and the planes in which a network removes it.

Under a Bayer filter, each pixel records red, green or blue. Its noise has the variance shot * signal + read, with the
signal from 0 (black) to 1 (white). The generalised Anscombe transform, a square root, gives all pixels about the same
noise (Foi, Trimeche, Katkovnik & Egiazarian, "Practical Poissonian-Gaussian noise modeling and fitting for single-image
raw-data", IEEE TIP 2008; Mäkitalo & Foi, "Optimal inversion of the generalized Anscombe transformation for
Poisson-Gaussian noise", IEEE TIP 2013). The network gets the four colours of each 2x2 pixels as planes, and this noise
as one more.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", NDArray[np.float32], "Tensor")
Plane = NDArray[np.float32]

COLOURS = 4
"""Planes of colours: red, green in the rows of red, green in the rows of blue, blue. One more plane holds the noise."""

_LEAST_SHOT = 1e-6
_CLIPPED = 0.995  # signals of clipped pixels
_BLOCK = 8  # differences per side of a block whose variance is measured
_BRIGHTEST = 0.8  # mean of a block; brighter ones may hold clipped pixels
_BINS = 16
_QUANTILE = 0.1  # of the variances of blocks of similar brightness; structure makes the others larger
# The same quantile of the variances that pure noise gives: chi-squared with 64 degrees of freedom (Wilson & Hilferty).
_OF_PURE_NOISE = (1 - 2 / (9 * _BLOCK**2) - 1.2816 * (2 / (9 * _BLOCK**2)) ** 0.5) ** 3


@dataclass(frozen=True)
class SensorNoise:
    """Shot and read noise: variance = shot * signal + read, for signals from 0 to 1.

    Attributes:
        shot: above 0; about 1e-4 at low and 3e-2 at high sensitivity.
        read: at least 0.
    """

    shot: float
    read: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "shot", max(self.shot, _LEAST_SHOT))
        object.__setattr__(self, "read", max(self.read, 0.0))

    @property
    def _offset(self) -> float:
        return 0.375 * self.shot**2 + self.read

    @property
    def _span(self) -> float:
        return float((self.shot + self._offset) ** 0.5 - self._offset**0.5)

    @property
    def level(self) -> float:
        """Standard deviation of stabilised values, at most 1."""
        return min(self.shot / 2 / self._span, 1.0)

    def stabilise(self, signal: Values) -> Values:
        """Return values from 0 (black) to 1 (white) whose noise doesn't depend on the signal."""
        root: Any = (self.shot * signal + self._offset).clip(0) ** 0.5
        return (root - self._offset**0.5) / self._span  # type: ignore[no-any-return]  # an array or a tensor

    def signal(self, stabilised: Values) -> Values:
        """Undo `stabilise`."""
        root: Any = (stabilised * self._span + self._offset**0.5).clip(0)
        return (root**2 - self._offset) / self.shot  # type: ignore[no-any-return]  # an array or a tensor


@dataclass(frozen=True, eq=False)
class Mosaic:
    """What a Bayer sensor recorded: one colour per pixel.

    Attributes:
        signal: [H,W], 0 for black, 1 for white, not clipped at black. As stored, not upright.
        red: row and column of the first red pixel, each 0 or 1.
        told: the noise according to the file; None if it doesn't say.
    """

    signal: Plane
    red: tuple[int, int]
    told: SensorNoise | None = None

    def planes(self) -> Plane:
        """Return the signals of each 2x2 pixels, beginning with red, as [h,w,4]; mirrored at the edges."""
        height, width = self.signal.shape
        down, across = ((start, (length + start) % 2) for start, length in zip(self.red, (height, width), strict=True))
        whole = np.pad(self.signal, (down, across), "reflect")
        return np.stack([whole[y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=2)

    def replaced(self, planes: Plane) -> "Mosaic":
        """Return the mosaic of other planes. Pixels that are clipped at white stay so: developing needs to see them."""
        height, width = self.signal.shape
        whole = np.empty((2 * planes.shape[0], 2 * planes.shape[1]), np.float32)
        for index in range(COLOURS):
            whole[index // 2 :: 2, index % 2 :: 2] = planes[:, :, index]
        signal = whole[self.red[0] : self.red[0] + height, self.red[1] : self.red[1] + width]
        return replace(self, signal=np.where(self.signal < _CLIPPED, signal, self.signal))


def estimate_noise(planes: NDArray[np.float32]) -> SensorNoise:
    """Estimate the noise from a picture: a line through the smallest variances of blocks of similar brightness.

    Args:
        planes: signals [H,W,4]; at least 32 pixels a side for a useful result.
    """
    means, variances = (np.concatenate(parts) for parts in zip(*map(_blocks, np.moveaxis(planes, 2, 0)), strict=True))
    usable = means < _BRIGHTEST
    means, variances = means[usable], variances[usable]
    if means.size < _BINS:
        # too few for a line through read noise too
        return SensorNoise(float((variances / np.maximum(means, 1e-3)).min()) if means.size else 0.0, 0)
    order = np.argsort(means)
    bins = np.array_split(order, min(_BINS, means.size // 8))
    x = np.array([means[one].mean() for one in bins])
    y = np.array([np.quantile(variances[one], _QUANTILE) for one in bins]) / _OF_PURE_NOISE
    # Relative errors count, and a line through structure is too high: points above it count less in each round.
    weight = 1 / np.maximum(y, 1e-9)
    shot = read = 0.0
    for _ in range(5):
        shot, read = _line(x, y, weight)
        fitted = np.maximum(shot * x + read, 1e-9)
        weight = 1 / fitted / np.maximum(1, y / fitted) ** 4
    return SensorNoise(shot, read)


def _blocks(plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and noise variances of the blocks of a plane."""
    height, width = (side // (2 * _BLOCK) * 2 * _BLOCK for side in plane.shape)
    a, b, c, d = (plane[y:height:2, x:width:2].astype(np.float64) for y in (0, 1) for x in (0, 1))
    shape = (height // 2 // _BLOCK, _BLOCK, width // 2 // _BLOCK, _BLOCK)
    means = ((a + b + c + d) / 4).reshape(shape).mean((1, 3))
    variances = np.square((a - b - c + d) / 2).reshape(shape).mean((1, 3))
    return means.ravel(), variances.ravel()


def _line(x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """The line slope * x + height of least weighted squares, neither negative."""
    w = weight**2
    middle, high = np.average(x, weights=w), np.average(y, weights=w)
    spread = np.average((x - middle) ** 2, weights=w)
    slope = float(np.average((x - middle) * (y - high), weights=w) / spread) if spread > 0 else 0.0
    height = high - slope * middle
    if slope < 0:
        return 0.0, float(high)
    if height < 0:
        return float(np.average(x * y, weights=w) / max(np.average(x * x, weights=w), 1e-12)), 0.0
    return slope, float(height)
