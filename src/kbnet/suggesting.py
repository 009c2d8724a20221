"""Suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message that suggests the closest known name, or "" if none is close.

    >>> did_you_mean("denose", ["denoise", "derain"])
    "; did you mean 'denoise'?"
    >>> did_you_mean("cat.png", ["denoise"])
    ''
    """
    names = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
