"""The resource limits of a server."""

from dataclasses import dataclass, fields

from kbnet.errors import InvalidInputError

BYTES_PER_PIXEL = 48
"""Memory for one image from decoding to encoding, without the tiles in progress: 16-bit RGB with alpha, in six copies
(`kbnet.inference.steps.COPIES`).
"""

MOST_PIXELS = 100_000_000
MOST_KEPT_BYTES = 1_000_000_000
_DERIVED = ("all_bytes", "pixels", "kept_bytes")


@dataclass(frozen=True)
class Limits:
    """Resource limits of a server. Requests that exceed one are refused early, with the HTTP status in parentheses.

    Attributes:
        bytes: maximum size of a request body (413).
        all_bytes: maximum total size of all request bodies in memory (429 for the slowest client). 0, the default,
            means four times `bytes`, but at most a quarter of the free memory.
        pixels: maximum pixels of an image, checked in its header before decoding (413). 0, the default, means as many
            as fit into half of the free memory, at most 100 million.
        waiting: maximum queue length, not counting the request in progress; further requests get 429 with Retry-After.
        seconds: maximum time from the first byte of a request to its reply, including waiting (503).
        kept_bytes: memory for results kept for another strength or format; the least recently used are deleted first.
            0, the default, means an eighth of the free memory, at most 1 GB.
        kept_seconds: how long a result is kept after its last use.
        header_seconds: maximum time for a request's header to arrive before the connection is closed.
        body_seconds: window in seconds in which at least `body_rate` bytes per second must arrive (408).
        body_rate: minimum rate of a request body, bytes per second.
        heic: whether HEIC is accepted (415), which is decoded in a child process.
        raw: whether camera raw files are accepted (415), which are developed in a child process; needs the extra `raw`.
        shutdown_seconds: how long accepted requests may take to finish after the server is told to stop.

    Raises:
        InvalidInputError: a limit is below 1 (below 0 for those with a default of 0), or has the wrong type.
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
    heic: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("heic", "raw"):
                continue
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
    from kbnet.inference.memory import available_bytes

    return available_bytes()
