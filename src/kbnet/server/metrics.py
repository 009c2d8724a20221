"""What Prometheus may ask for: counts, never content."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATHS = ("/v1/restore", "/v1/models", "/v1/progress", "/healthz", "/metrics", "/openapi.json", "/")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counts of one server, in a registry of their own.

    Args:
        depth: how many restorations wait at this moment.
        admitted: how many requests were let in and have not been answered.
    """

    def __init__(self, *, depth: Callable[[], float], admitted: Callable[[], float]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("kbnet_requests", "Requests answered", ("method", "path", "status"), registry=registry)
        self._seconds = Histogram(
            "kbnet_restore_request_seconds",
            "From the first byte of a request to restore to the end of its reply",
            buckets=_SECONDS,
            registry=registry,
        )
        self._work = Histogram(
            "kbnet_restore_work_seconds",
            "Of decoding, restoring and encoding, without the wait",
            ("task",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._pixels = Counter("kbnet_pixels", "Pixels restored", ("task",), registry=registry)
        Gauge("kbnet_waiting", "Pictures that wait for their turn", registry=registry).set_function(depth)
        Gauge("kbnet_admitted", "Requests let in and not yet answered", registry=registry).set_function(admitted)

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request; paths and methods beyond the known ones share a label, or anyone could make new ones."""
        known = next((p for p in _PATHS if path == p or (p == "/v1/progress" and path.startswith(p + "/"))), "other")
        verb = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._requests.labels(verb, known, str(status)).inc()
        if known == "/v1/restore":
            self._seconds.observe(seconds)

    def restored(self, task: str, seconds: float, pixels: int) -> None:
        """Count one picture's work."""
        self._work.labels(task).observe(seconds)
        self._pixels.labels(task).inc(pixels)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
