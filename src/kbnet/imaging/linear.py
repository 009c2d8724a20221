"""Scene-linear samples: to values that look like those of ordinary photos, which networks restore, and back.

    linear light of a file --encode--> pixels of a Photo --(restore)--> --decode--> linear light of the result

The curve is that of sRGB from black to white. Below black it continues as a straight line; above white it grows with
the logarithm, so that highlights of a hundred times white stay near those that networks know. It has no limits: values
outside of a colour space, or beyond white, are restored like the others and come back.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Doubles = NDArray[np.float64]

_SLOPE = 1.055 / 2.4  # of the sRGB curve at white
_SHARE = 0.25  # encoded stops above white: 2 times white is 1.25, 10 times 1.7, 100 times 2.29
_ROWS = 64


def encode(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encode linear samples of any shape, black 0 and white 1; as float32, unclipped."""
    return _by_rows(samples, _encoded)


def decode(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what `encode` was given, to a relative precision of 1e-6."""
    return _by_rows(samples, _decoded)


def _by_rows(samples: NDArray[np.float32], function: Callable[[_Doubles], _Doubles]) -> NDArray[np.float32]:
    result = np.empty(samples.shape, np.float32)
    for top in range(0, len(samples), _ROWS):  # in double precision, a few rows at a time
        part = samples[top : top + _ROWS].astype(np.float64)
        result[top : top + _ROWS] = function(part)
    return result


def _encoded(x: _Doubles) -> _Doubles:
    inside = np.clip(x, 0.0031308, 1)
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * inside ** (1 / 2.4) - 0.055)
    return np.where(x > 1, 1 + _SHARE * np.log1p(np.maximum(x - 1, 0) * (_SLOPE / _SHARE)), curve)


def _decoded(y: _Doubles) -> _Doubles:
    inside = np.clip(y, 0.0404482, 1)
    curve = np.where(y <= 0.0404482, y / 12.92, ((inside + 0.055) / 1.055) ** 2.4)
    return np.where(y > 1, 1 + np.expm1(np.maximum(y - 1, 0) / _SHARE) * (_SHARE / _SLOPE), curve)
