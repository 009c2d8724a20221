"""What one server takes on, and what it refuses."""

from dataclasses import dataclass, fields

from kbnet.errors import InvalidInputError

BYTES_PER_PIXEL = 96
"""Memory of one picture at work, beside the tile: decoded, as float32 before and after, 16-bit, encoded, and kept."""

MOST_PIXELS = 100_000_000
MOST_KEPT_BYTES = 1_000_000_000
_DERIVED = ("all_bytes", "pixels", "kept_bytes")


@dataclass(frozen=True)
class Limits:
    """How much a server takes on. More is refused with a status that says why, before it costs anything.

    Attributes:
        bytes: of one request's body, as it arrives (413).
        all_bytes: of all bodies together (429 for the slowest sender). 0, the default, for four times `bytes`, but no
            more than a quarter of the free memory holds.
        pixels: of one picture, read from its header before it is decoded (413). 0, the default, for as many as half
            the free memory holds, at most 100 million.
        waiting: requests that may wait for their turn, beside the one at work (429 with Retry-After).
        seconds: from a request's first byte to its reply, the wait included (503).
        kept_bytes: memory for results that wait for another strength or format; the oldest go first. 0, the
            default, for an eighth of the free memory, at most 1 GB.
        kept_seconds: how long a result is kept after its last use.
        header_seconds: for the head of a request to arrive; then the connection is closed.
        body_seconds: in each span of so many seconds at least `body_rate` bytes a second must arrive (408).
        body_rate: bytes a second.
        shutdown_seconds: how long requests that were accepted may take to finish after the server was told to stop.

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
