"""Valid ranges of a network's settings. Weights files hold settings too, so they are checked before anything is built.

The limits are far above every published network, and low enough that any network within them is laid out in seconds.
"""

from collections.abc import Sequence

from kbnet.errors import InvalidInputError

MAX_BLOCKS = 64  # per level
MAX_LEVELS = 6


def whole(name: str, value: object, low: int, high: int) -> None:
    """Raise InvalidInputError unless a setting is an integer in [low, high]."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInputError(f"expected {name} to be a whole number from {low} to {high}, got {value!r:.40}")


def wholes(name: str, values: object, low: int, high: int, lengths: tuple[int, int]) -> tuple[int, ...]:
    """Return a setting that is a list of integers in [low, high] as a tuple.

    `lengths` holds the smallest and the largest number of values. Raises InvalidInputError for anything else.
    """
    if not isinstance(values, Sequence) or isinstance(values, str) or not lengths[0] <= len(values) <= lengths[1]:
        wanted = " to ".join(str(n) for n in sorted(set(lengths)))
        raise InvalidInputError(f"expected {name} to be a list of {wanted} whole numbers, got {values!r:.40}")
    for value in values:
        whole(name, value, low, high)
    return tuple(values)


def positive(name: str, value: object, high: float) -> None:
    """Raise InvalidInputError unless a setting is a number in (0, high]; NaN is rejected."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= high:
        raise InvalidInputError(f"expected {name} to be a number greater than 0 and at most {high}, got {value!r:.40}")


def divisible(name: str, value: int, by: int, why: str) -> None:
    """Raise InvalidInputError unless a setting is a positive multiple of `by`; `why` names what needs it."""
    if value < 1 or value % by:
        raise InvalidInputError(f"expected {name} to be divisible by {by} ({why}), got {value}")


def kernel_basis_attention(
    bases: object, group_channels: object, kernel_size: object, coefficient_limit: object
) -> None:
    """Check the settings of kernel basis attention, which both families share."""
    whole("bases", bases, 1, 512)
    whole("group_channels", group_channels, 1, 64)
    whole("kernel_size", kernel_size, 1, 15)
    if isinstance(kernel_size, int) and kernel_size % 2 == 0:
        raise InvalidInputError(f"expected kernel_size to be odd, got {kernel_size}")
    whole("coefficient_limit", coefficient_limit, 2, 1024)
