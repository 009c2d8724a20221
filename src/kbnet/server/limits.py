"""What one server takes on, and what it refuses."""

from dataclasses import dataclass, fields

from kbnet.errors import InvalidInputError


@dataclass(frozen=True)
class Limits:
    """How much a server takes on. More is refused with a status that says why, before it costs anything.

    Attributes:
        bytes: of one request's body, as it arrives (413). All bodies together may hold four times as much (429).
        pixels: of one picture, told from its header before it is decoded (413).
        waiting: requests that may wait for their turn, beside the one at work (429 with Retry-After).
        seconds: from a request's first byte to its reply, the wait included (503).

    Raises:
        InvalidInputError: a limit below 1.
    """

    bytes: int = 200_000_000
    pixels: int = 100_000_000
    waiting: int = 16
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name != "seconds"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= 1:
                kind = "a whole number" if whole else "a number"
                raise InvalidInputError(f"expected the limit {field.name} to be {kind} of at least 1, got {value!r}")

    @property
    def all_bytes(self) -> int:
        """Bytes that the accepted bodies may hold together."""
        return 4 * self.bytes
