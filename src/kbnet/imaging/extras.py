"""Protects files with images, videos or sounds that a result can't contain from being overwritten by the result."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from kbnet.errors import OutputError
from kbnet.imaging.photo import Photo, printable


def lost_extras(photo: Photo, format: str) -> tuple[str, ...]:
    """Return the names of the images, videos and sounds in the photo's file that a result of a format won't contain."""
    return photo.extras + (photo.tail.names if photo.tail is not None and format != "jpeg" else ())


def check_extras(
    extras: Sequence[str], source: Path | str | None, target: Path | str | None, *, drop_extras: bool
) -> None:
    """Refuse to overwrite a source file if its extras would be lost.

    Args:
        extras: extras of the source file, as in `Photo.extras`.
        source: path or URL of the source file; None if there is none or it is unknown.
        target: path or URL of the result; None for a pipe or memory.
        drop_extras: whether the extras may be lost.

    Raises:
        OutputError: the extras would be lost.
    """
    if drop_extras or not extras or source is None or target is None or not _is_same(source, target):
        return
    raise OutputError(
        f"{printable(target)}: {' and '.join(extras)} would be lost with the original; choose another output or add "
        "--drop-extras"
    )


def _is_same(source: Path | str, target: Path | str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return Path(source).samefile(target)
    return str(source) == str(target)
