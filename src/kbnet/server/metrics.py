"""Prometheus metrics: only counts and durations, never content."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATHS = ("/v1/restore", "/v1/models", "/healthz", "/metrics", "/openapi.json", "/docs", "/")
_FAMILIES = ("/v1/progress", "/v1/results", "/page")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The metrics of one server, in a separate registry.

    Args:
        gauges: help text and reading function of each gauge, by name.
    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("kbnet_requests", "Requests answered", ("method", "path", "status"), registry=registry)
        self._seconds = Histogram(
            "kbnet_restore_request_seconds",
            "Time from the first byte of a restore request to the end of its reply",
            buckets=_SECONDS,
            registry=registry,
        )
        labels = ("task", "model")
        self._work = Histogram(
            "kbnet_restore_work_seconds",
            "Time for decoding, restoring and encoding, without waiting",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._pixels = Counter("kbnet_pixels", "Pixels restored", labels, registry=registry)
        self._worked = Counter("kbnet_worker_seconds", "Seconds that the worker thread was busy", registry=registry)
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request. Unknown paths and methods share a label, so that clients can't create new ones."""
        family = next((one for one in _FAMILIES if path.startswith(one + "/")), "other")
        known = path if path in _PATHS else family
        verb = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._requests.labels(verb, known, str(status)).inc()
        if known == "/v1/restore":
            self._seconds.observe(seconds)

    def restored(self, task: str, model: str, seconds: float, pixels: int) -> None:
        """Count the processing of one image."""
        self._work.labels(task, model).observe(seconds)
        self._pixels.labels(task, model).inc(pixels)

    def worked(self, seconds: float) -> None:
        """Count a unit of work of the worker thread."""
        self._worked.inc(seconds)

    def text(self) -> bytes:
        """Return the metrics in the Prometheus text format."""
        return generate_latest(self._registry)
