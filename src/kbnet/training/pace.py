"""How fast a run goes: steps a second, and what part of the time it waits for data."""

import time

_SMOOTHING = 0.98  # of the rate and the loader's share


class Pace:
    """Steps a second and the loader's share of the time, of the last steps more than of the first.

    The very first ones, for which everything starts up, are forgotten once there are others.
    """

    def __init__(self) -> None:
        self._steps = self._seconds = self._waited = self._seen = 0.0
        self._added = 0
        self._since = time.perf_counter()

    def add(self, steps: int, waited: float) -> None:
        kept = _SMOOTHING**steps if self._added != 1 else 0.0
        self._added += 1
        self._steps = kept * self._steps + steps
        self._seconds = kept * self._seconds + time.perf_counter() - self._since
        self._waited = kept * self._waited + waited - self._seen
        self._seen = waited

    def resume(self) -> None:
        """Go on timing, after a validation or checkpoint."""
        self._since = time.perf_counter()

    @property
    def rate(self) -> float:
        return self._steps / max(self._seconds, 1e-9)

    @property
    def share(self) -> float:
        return self._waited / max(self._seconds, 1e-9)
