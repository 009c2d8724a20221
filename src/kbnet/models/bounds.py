"""Ranges of a network's settings. They come from files too, so absurd ones are refused before anything is built.

The bounds are far above every published network, and low enough that a network within them is laid out in seconds.
"""

from collections.abc import Sequence

from kbnet.errors import InvalidInputError

MAX_BLOCKS = 64  # of one level
MAX_LEVELS = 6


def whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse a setting that is not a whole number in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInputError(f"expected {name} a whole number from {low} to {high}, got {value!r:.40}")


def wholes(name: str, values: object, low: int, high: int, lengths: tuple[int, int]) -> tuple[int, ...]:
    """A tuple of a setting that is a list of whole numbers in [low, high], as many as `lengths` allows."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not lengths[0] <= len(values) <= lengths[1]:
        wanted = " to ".join(str(n) for n in sorted(set(lengths)))
        raise InvalidInputError(f"expected {name} a list of {wanted} numbers, got {values!r:.40}")
    for value in values:
        whole(name, value, low, high)
    return tuple(values)


def positive(name: str, value: object, high: float) -> None:
    """Refuse a setting that is not a number in (0, high]; NaN is not."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= high:
        raise InvalidInputError(f"expected {name} a number over 0, up to {high}, got {value!r:.40}")


def divisible(name: str, value: int, by: int, why: str) -> None:
    """Refuse a setting that `by` does not divide."""
    if value < 1 or value % by:
        raise InvalidInputError(f"expected {name} divisible by {by}, {why}; got {value}")


def kernel_basis_attention(
    bases: object, group_channels: object, kernel_size: object, coefficient_limit: object
) -> None:
    """Refuse settings of the operator that both families share."""
    whole("bases", bases, 1, 512)
    whole("group_channels", group_channels, 1, 64)
    whole("kernel_size", kernel_size, 1, 15)
    if isinstance(kernel_size, int) and kernel_size % 2 == 0:
        raise InvalidInputError(f"expected an odd kernel_size, got {kernel_size}")
    whole("coefficient_limit", coefficient_limit, 2, 1024)
