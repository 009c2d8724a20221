"""Results kept in memory for a while, so that another strength or format needs no second restoration.

Nothing is written to disk. A result is found by an unguessable token alone, and leaves when its time is up, when newer
ones need its memory, when its owner says so, or with the server.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from kbnet.imaging import Pixels, plan_output, read_photo, write_photo
from kbnet.imaging.planning import format_of

_ROWS = 256  # blended at a time, so that the floats in between stay small


@dataclass(frozen=True)
class KeptResult:
    """The file that was sent and the restored pixels at its depth: enough to make any blend of the two."""

    data: bytes = field(repr=False)
    pixels: Pixels = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        return len(self.data) + int(self.pixels.nbytes)

    def encode(self, strength: float, format: str | None) -> tuple[bytes, str, tuple[str, ...]]:
        """The blend as a file with the metadata of the one sent: its bytes, its format, and what it could not keep.

        Args:
            strength: 1 for the restored pixels, 0 for those sent, between for a blend rounded half to even.
            format: None for that of the file sent.
        """
        height, width = self.pixels.shape[:2]
        photo = read_photo(self.data, max_pixels=height * width)
        photo = replace(photo, pixels=blend(photo.pixels, self.pixels, strength))
        chosen = format_of(format or photo.format)
        _, lost = plan_output(photo, chosen)
        data = write_photo(photo, None, format=chosen)
        assert data is not None
        return data, chosen, (*photo.notes, *lost)


def blend(before: Pixels, after: Pixels, strength: float) -> Pixels:
    """before + strength * (after - before), rounded half to even; same shape and dtype."""
    if strength in (0, 1):
        return after if strength else before
    result = np.empty_like(before)
    for row in range(0, len(before), _ROWS):
        part = slice(row, row + _ROWS)
        low = before[part].astype(np.float64)
        result[part] = np.rint(low + strength * (after[part] - low)).astype(before.dtype)
    return result


class Kept:
    """Results by token, bounded in bytes and time. Used by the event loop alone.

    Args:
        most: bytes of all together.
        seconds: since a result's last use, after which it is forgotten.
        clock: seconds that only grow.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._results: OrderedDict[str, tuple[KeptResult, float]] = OrderedDict()  # the least recently used first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._results)

    def put(self, result: KeptResult) -> str | None:
        """Keep it, in the place of older ones if need be; its token, or None if it alone is too large."""
        if result.nbytes > self._most:
            return None
        while self._results and self.nbytes + result.nbytes > self._most:
            self.drop(next(iter(self._results)))
        token = secrets.token_urlsafe(24)
        self._results[token] = result, self._clock()
        self.nbytes += result.nbytes
        return token

    def get(self, token: str) -> KeptResult | None:
        """The result, whose time starts anew; None if it is not kept."""
        self.expire()
        found = self._results.get(token)
        if found is None:
            return None
        self._results[token] = found[0], self._clock()
        self._results.move_to_end(token)
        return found[0]

    def drop(self, token: str) -> bool:
        """Forget it; whether it was kept."""
        found = self._results.pop(token, None)
        if found is not None:
            self.nbytes -= found[0].nbytes
        return found is not None

    def expire(self) -> None:
        """Forget those whose time is up."""
        last = self._clock() - self._seconds
        while self._results and next(iter(self._results.values()))[1] < last:
            self.drop(next(iter(self._results)))

    def clear(self) -> None:
        """Forget all."""
        self._results.clear()
        self.nbytes = 0
