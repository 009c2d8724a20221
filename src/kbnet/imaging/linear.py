"""Scene-linear samples: to values that look like those of ordinary photos, which networks restore, and back.

    linear light of a file --encode--> pixels of a Photo --(restore)--> --decode--> linear light of the result

The curve is that of sRGB from black to white. Below black it continues as a straight line; above white it grows with
the logarithm, so that highlights of a hundred times white stay near those that networks know. It has no limits: values
outside of a colour space, or beyond white, are restored like the others and come back.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import UnsupportedImageError
from kbnet.imaging import icc

_Doubles = NDArray[np.float64]

_SLOPE = 1.055 / 2.4  # of the sRGB curve at white
_SHARE = 0.25  # encoded stops above white: 2 times white is 1.25, 10 times 1.7, 100 times 2.29
_ROWS = 64
_HIGHEST_MEDIAN = 4.0  # scene-linear images exceed white by far, but not in half of their values


def is_linear(kind: str, profile: bytes | None) -> bool:
    """Return whether a file's samples are scene-linear and precise enough to be encoded.

    Args:
        kind: libvips' name of the sample type, such as "ushort" or "float". Floats without a profile count as linear.
        profile: ICC profile of the file, or None.
    """
    if kind == "float":
        return profile is None or icc.is_linear(profile)
    return kind == "ushort" and profile is not None and icc.is_linear(profile)


def check_floats(pixels: NDArray[Any], name: str) -> None:
    """Refuse float samples that have no sensible value.

    Raises:
        UnsupportedImageError: NaN or infinity, or another white than 1.
    """
    if not np.isfinite(pixels).all():
        raise UnsupportedImageError(f"{name}: expected finite samples, got NaN or infinity; replace them")
    median = float(np.median(pixels[:: max(1, len(pixels) // 512)]))
    if median > _HIGHEST_MEDIAN:
        raise UnsupportedImageError(
            f"{name}: expected float samples with white at 1, got a median of {median:g}; divide them by their white"
        )


def floats(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return uint16 or float samples as float32, with white at 1."""
    result: NDArray[np.float32] = samples.astype(np.float32)
    if samples.dtype == np.uint16:
        result /= 65535
    return result


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
