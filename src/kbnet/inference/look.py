"""How a result looks: how much of the change applies to luma, to chroma, and to fine detail.

Applied to pairs of rows, the input's and the restored image's, so that images in memory, files restored by rows and
results kept by the server look the same. NumPy only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""

_TAPS = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1], np.float32) / 256
"""The low-pass filter. Its frequency response, cos^8(w/2), is never negative: each frequency of the detail changes
monotonically with the setting. Half of the amplitude is left at a period of 7.7 pixels."""

REACH = len(_TAPS) // 2
"""Rows above and below that the result of a row depends on, pixels."""

_LINES = 64  # rows mixed at a time

Rows = NDArray[Any]


@dataclass(frozen=True)
class Look:
    """How much of the difference between input and restored image the result gets.

        result = input + strength * (luma change - detail * its high band) + color_strength * chroma change

    Each setting is monotonic: a higher `strength` or `color_strength` moves the result away from the input in luma or
    in chroma, a higher `detail` moves it back towards the input.

    Attributes:
        strength: of the luma, 0 = input, 1 = restored. With `color_strength` None, of the chroma too.
        color_strength: of the chroma, 0 = input, 1 = restored. No effect on gray images.
        detail: how much of the fine structure that restoring removed from the luma comes back, 0 = none, 1 = all.

    Raises:
        InvalidInputError: a value outside [0,1].
    """

    strength: float = 1.0
    color_strength: float | None = None
    detail: float = 0.0

    def __post_init__(self) -> None:
        for name in ("strength", "color_strength", "detail"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                what = name.replace("_", " ")
                raise InvalidInputError(f"expected a {what} from 0 to 1, got {value}")

    @property
    def chroma(self) -> float:
        """The strength of the chroma."""
        return self.strength if self.color_strength is None else self.color_strength

    @property
    def is_plain(self) -> bool:
        """Whether every value of the image is blended with the same strength, `strength`."""
        return self.chroma == self.strength and (self.detail == 0 or self.strength == 0)

    @property
    def is_input(self) -> bool:
        """Whether the result is the input."""
        return self.strength == 0 and self.chroma == 0

    def settings(self) -> dict[str, float]:
        """What the result depends on, for logs; settings without an effect are left out."""
        more = {} if self.is_plain else {"color_strength": self.chroma, "detail": self.detail}
        return {"strength": self.strength, **more}


class Mixer:
    """Mixes rows of an image with the restored ones, from top to bottom.

    With `detail`, rows are returned once the `REACH` rows below them are known.

    Args:
        look: the settings.
        limits: black and white of the values. Integers are rounded half to even and clipped, floats are not clipped.
    """

    def __init__(self, look: Look, limits: tuple[float, float] | None = None) -> None:
        self._look, self._limits = look, limits
        self._waiting: list[tuple[Rows, Rows]] = []  # rows whose result isn't known yet
        self._luma: NDArray[np.float32] | None = None  # luma change from REACH rows above these
        self._begun = False

    def push(self, before: Rows, after: Rows) -> Rows:
        """Add rows [h,W,C] of both images, which may be overwritten afterwards; return the next rows of the result."""
        if self._look.detail == 0 or self._look.is_plain:
            return self._mixed(before, after, None)
        change = _luma(after) - _luma(before)
        self._luma = change if self._luma is None else np.concatenate([self._luma, change])
        self._waiting.append((before.copy(), after.copy()))
        if not self._begun and len(self._luma) >= REACH:
            self._luma = np.concatenate([self._luma[:REACH][::-1], self._luma])
            self._begun = True
        return self._ready()

    def finish(self) -> Rows:
        """Return the rest of the rows; none if they have all been returned."""
        if self._luma is None:
            return np.empty((0, 1, 1), np.uint8)
        if self._begun:
            self._luma = np.concatenate([self._luma, self._luma[-REACH:][::-1]])
        else:
            self._luma = np.pad(self._luma, ((REACH, REACH), (0, 0)), "symmetric")
            self._begun = True
        return self._ready()

    def _ready(self) -> Rows:
        assert self._luma is not None
        before, after = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        count = max(len(self._luma) - 2 * REACH, 0) if self._begun else 0
        low = _low_pass(self._luma[: count + 2 * REACH]) if count else self._luma[:0]
        result = self._mixed(before[:count], after[:count], low)
        self._waiting = [(before[count:], after[count:])]
        self._luma = self._luma[count:]
        return result

    def _mixed(self, before: Rows, after: Rows, low_band: NDArray[np.float32] | None) -> Rows:
        """Mix rows; `low_band` is that of their luma change, or None without detail."""
        look = self._look
        if look.is_plain:
            low = before.astype(np.float64)
            return self._stored(low + look.strength * (after - low), before.dtype)
        original = before.astype(np.float32)
        change = after.astype(np.float32) - original
        luma = change[:, :, 0] if change.shape[2] == 1 else change @ np.array(LUMA, np.float32)
        chroma = change - luma[:, :, None]
        if low_band is not None:
            luma = luma + np.float32(look.detail) * (low_band - luma)
        mixed = original + np.float32(look.strength) * luma[:, :, None]
        if change.shape[2] > 1:
            mixed += np.float32(look.chroma) * chroma
        return self._stored(mixed, before.dtype)

    def _stored(self, values: Rows, dtype: np.dtype[Any]) -> Rows:
        if dtype.kind != "u":
            return values.astype(dtype)
        lowest, highest = self._limits or (0, np.iinfo(dtype).max)
        np.clip(values, lowest, highest, out=values)
        return np.clip(np.rint(values, out=values), 0, np.iinfo(dtype).max).astype(dtype)


def mix(before: Rows, after: Rows, look: Look, limits: tuple[float, float] | None = None) -> None:
    """Replace the restored image with the result of this look, in place.

    Args:
        before: the input, [H,W] or [H,W,C], uint8, uint16 or floating.
        after: the fully restored image of the same shape and dtype; overwritten.
        look: the settings.
        limits: black and white of integers; by default those of the dtype.

    Example:
        >>> noisy, clean = np.full((9, 9, 3), 100, np.uint8), np.full((9, 9, 3), 50, np.uint8)
        >>> mix(noisy, clean, Look(strength=0.5))
        >>> int(clean[0, 0, 0])
        75
    """
    if before.ndim == 2:
        before, after = before[:, :, None], after[:, :, None]
    top = 0
    for rows in filter(len, _all(before, after, Mixer(look, limits))):
        after[top : top + len(rows)] = rows
        top += len(rows)


def _all(before: Rows, after: Rows, mixer: Mixer) -> Iterator[Rows]:
    for top in range(0, len(before), _LINES):
        yield mixer.push(before[top : top + _LINES], after[top : top + _LINES])
    yield mixer.finish()


def _luma(values: Rows) -> NDArray[np.float32]:
    """The luma [h,W] of rows [h,W,C]."""
    floats: NDArray[np.float32] = values.astype(np.float32)
    return floats[:, :, 0] if floats.shape[2] == 1 else floats @ np.array(LUMA, np.float32)


def _low_pass(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Low-pass rows [h,W], mirrored at the sides; the result has 2 * REACH rows fewer."""
    count, width = len(values) - 2 * REACH, values.shape[1]
    down = sum(tap * values[at : at + count] for at, tap in enumerate(_TAPS))
    wide = np.pad(np.asarray(down), ((0, 0), (REACH, REACH)), "symmetric")
    result: NDArray[np.float32] = np.asarray(sum(tap * wide[:, at : at + width] for at, tap in enumerate(_TAPS)))
    return result
