"""Pictures, videos and sounds that no result holds: their file is not replaced by a result unless that is asked for."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from kbnet.errors import OutputError
from kbnet.imaging.photo import printable


def check_extras(
    extras: Sequence[str], source: Path | str | None, target: Path | str | None, *, drop_extras: bool
) -> None:
    """Refuse a result that would take the place of the file it was made from and lose what that has besides.

    Args:
        extras: of the file, as in `Photo.extras`.
        source: the file, by path or URL; None where it is none, or not known.
        target: where the result goes, by path or URL; None for a pipe or memory.
        drop_extras: whether they may be lost.

    Raises:
        OutputError: they would be lost.
    """
    if drop_extras or not extras or source is None or target is None or not _is_same(source, target):
        return
    raise OutputError(
        f"{printable(target)}: {' and '.join(extras)} would be lost with the original; choose another output, or give "
        "--drop-extras"
    )


def _is_same(source: Path | str, target: Path | str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(source).samefile(target)
    return str(source) == str(target)
