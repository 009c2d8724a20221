"""Keeps results in memory for a limited time, so that another strength or format needs no second restoration.

Nothing is written to disk. A result is accessible only by an unguessable token. It is deleted when it expires, when
newer results need its memory, on request, or when the server stops.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kbnet.imaging import Pixels, plan_output, write_photo
from kbnet.imaging.planning import format_of
from kbnet.inference.look import Look, mix
from kbnet.server.decoding import open_photo


@dataclass(frozen=True)
class KeptResult:
    """The input file and the restored pixels at its bit depth, from which any blend can be made."""

    data: bytes = field(repr=False)
    pixels: Pixels = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it occupies, bytes."""
        return len(self.data) + int(self.pixels.nbytes)

    def encode(self, look: Look, format: str | None) -> tuple[bytes, str, tuple[str, ...]]:
        """Encode a blend of input and result with the input's metadata.

        Args:
            look: how the result looks; rounded half to even.
            format: output format; None for the input's.

        Returns:
            The bytes of the file, its format, and notes.
        """
        height, width = self.pixels.shape[:2]
        photo = open_photo(self.data, height * width)
        photo = replace(photo, pixels=mixed(photo.pixels, self.pixels, look))
        chosen = format_of(format or photo.format)
        _, lost = plan_output(photo, chosen)
        data = write_photo(photo, None, format=chosen)
        assert data is not None
        return data, chosen, (*photo.notes, *lost)


def mixed(before: Pixels, after: Pixels, look: Look) -> Pixels:
    """Return the input, the fully restored pixels, or a mixture of both; same shape and dtype, no input is changed."""
    if look.is_input:
        return before
    if look.is_plain and look.strength == 1:
        return after
    result = after.copy()
    mix(before, result, look)
    return result


class Kept:
    """Results by token, with limits on bytes and time. Not thread-safe: for the event loop only.

    Args:
        most: maximum total size in bytes.
        seconds: time after its last use when a result expires.
        clock: returns monotonic time in seconds.
    """

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._results: OrderedDict[str, tuple[KeptResult, float]] = OrderedDict()  # least recently used first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._results)

    def put(self, result: KeptResult) -> str | None:
        """Keep a result, deleting older ones if needed. Returns its token, or None if it is too large."""
        if result.nbytes > self._most:
            return None
        while self._results and self.nbytes + result.nbytes > self._most:
            self.drop(next(iter(self._results)))
        token = secrets.token_urlsafe(24)
        self._results[token] = result, self._clock()
        self.nbytes += result.nbytes
        return token

    def get(self, token: str) -> KeptResult | None:
        """Return a result and reset its expiry; None if there is no such result."""
        self.expire()
        found = self._results.get(token)
        if found is None:
            return None
        self._results[token] = found[0], self._clock()
        self._results.move_to_end(token)
        return found[0]

    def drop(self, token: str) -> bool:
        """Delete a result. Returns whether it existed."""
        found = self._results.pop(token, None)
        if found is not None:
            self.nbytes -= found[0].nbytes
        return found is not None

    def expire(self) -> None:
        """Delete expired results."""
        last = self._clock() - self._seconds
        while self._results and next(iter(self._results.values()))[1] < last:
            self.drop(next(iter(self._results)))

    def clear(self) -> None:
        """Delete all results."""
        self._results.clear()
        self.nbytes = 0
