"""What Prometheus may ask for: counts, never content."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATHS = ("/v1/restore", "/v1/models", "/healthz", "/metrics", "/openapi.json", "/docs", "/")
_FAMILIES = ("/v1/progress", "/v1/results", "/page")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counts of one server, in a registry of their own.

    Args:
        gauges: by name, what each tells and how it is read.
    """

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("kbnet_requests", "Requests answered", ("method", "path", "status"), registry=registry)
        self._seconds = Histogram(
            "kbnet_restore_request_seconds",
            "From the first byte of a request to restore to the end of its reply",
            buckets=_SECONDS,
            registry=registry,
        )
        labels = ("task", "model")
        self._work = Histogram(
            "kbnet_restore_work_seconds",
            "Of decoding, restoring and encoding, without the wait",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._pixels = Counter("kbnet_pixels", "Pixels restored", labels, registry=registry)
        self._worked = Counter(
            "kbnet_worker_seconds", "Seconds in which the thread that restores was at work", registry=registry
        )
        for name, (text, read) in gauges.items():
            Gauge(name, text, registry=registry).set_function(read)

    def count(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request; paths and methods beyond the known ones share a label, or anyone could make new ones."""
        family = next((one for one in _FAMILIES if path.startswith(one + "/")), "other")
        known = path if path in _PATHS else family
        verb = method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
        self._requests.labels(verb, known, str(status)).inc()
        if known == "/v1/restore":
            self._seconds.observe(seconds)

    def restored(self, task: str, model: str, seconds: float, pixels: int) -> None:
        """Count one picture's work."""
        self._work.labels(task, model).observe(seconds)
        self._pixels.labels(task, model).inc(pixels)

    def worked(self, seconds: float) -> None:
        """Count a turn of work."""
        self._worked.inc(seconds)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
