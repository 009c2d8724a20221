"""Measures the speed of a run: steps per second, and the fraction of time spent waiting for data."""

import time

_SMOOTHING = 0.98  # decay per step of the running averages


class Pace:
    """Running averages of the steps per second and of the loader's share of the time, weighted towards recent steps.

    The first steps include start-up costs; they are dropped as soon as later ones are known.
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
        """Resume timing after a validation or checkpoint."""
        self._since = time.perf_counter()

    @property
    def rate(self) -> float:
        return self._steps / max(self._seconds, 1e-9)

    @property
    def share(self) -> float:
        return self._waited / max(self._seconds, 1e-9)
