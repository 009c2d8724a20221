"""How much work one server accepts, and what it refuses."""

from dataclasses import dataclass, fields

from kbnet.errors import InvalidInputError

BYTES_PER_PIXEL = 48
"""Memory of one picture from decoding to encoding, besides the tiles at work: 16-bit RGB with alpha, in six copies
(`kbnet.inference.steps.COPIES`).
"""

MOST_PIXELS = 100_000_000
MOST_KEPT_BYTES = 1_000_000_000
_DERIVED = ("all_bytes", "pixels", "kept_bytes")


@dataclass(frozen=True)
class Limits:
    """How much work a server accepts. Anything beyond is refused early, with an HTTP status that says why.

    Attributes:
        bytes: maximum size of one request's body, checked while it arrives (413).
        all_bytes: maximum size of all bodies in memory together (429 for the slowest sender). The default, 0, means
            four times `bytes`, or a quarter of the free memory if that is less.
        pixels: maximum size of one picture, read from its header before it is decoded (413). The default, 0, means
            as many as half of the free memory holds, at most 100 million.
        waiting: maximum queue length, besides the request being processed (429 with Retry-After).
        seconds: maximum time from a request's first byte to its reply, including the wait (503).
        kept_bytes: memory for results kept for another strength or format; the oldest are dropped first. The default,
            0, means an eighth of the free memory, at most 1 GB.
        kept_seconds: how long a result is kept after its last use.
        header_seconds: time for the headers of a request to arrive; then the connection is closed.
        body_seconds: interval over which a body's rate is measured (408 if it is below `body_rate`).
        body_rate: minimum rate of a body, bytes per second.
        shutdown_seconds: time for accepted requests to finish after the server is told to stop.

    Raises:
        InvalidInputError: a limit below 1.
    """

    bytes: int = 200_000_000
    all_bytes: int = 0
    pixels: int = 0
    waiting: int = 16
    seconds: float = 600.0
    kept_bytes: int = 0
    kept_seconds: float = 900.0
    header_seconds: float = 30.0
    body_seconds: float = 30.0
    body_rate: int = 10_000
    shutdown_seconds: float = 7.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type is int or field.type == "int"
            least = 0 if field.name in _DERIVED else 1
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= least:
                kind = "a whole number" if whole else "a number"
                raise InvalidInputError(
                    f"expected the limit {field.name} to be {kind} of at least {least}, got {value!r}"
                )
        if not all(getattr(self, name) for name in _DERIVED):
            free = _free_bytes()
            derived = {
                "all_bytes": max(min(free // 4, 4 * self.bytes), self.bytes),
                "pixels": max(min(free // 2 // BYTES_PER_PIXEL, MOST_PIXELS), 1),
                "kept_bytes": max(min(free // 8, MOST_KEPT_BYTES), 1),
            }
            for name in _DERIVED:
                object.__setattr__(self, name, getattr(self, name) or derived[name])


def _free_bytes() -> int:
    import torch

    from kbnet.inference.memory import available_bytes

    return available_bytes(torch.device("cpu"))
