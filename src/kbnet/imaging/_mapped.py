"""Releases pages of files that libvips maps into memory, which would otherwise count as memory of this process."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STEP = 2  # percent of progress between two releases


@contextmanager
def keep_unmapped(image: Any, path: Path) -> Iterator[None]:
    """While `image` is written in this context, periodically release the pages of the mapped file `path`. Linux only.

    This is safe: the mapping is read-only, and a page that is needed again is read from the file.
    """
    if sys.platform != "linux":
        yield
        return
    seen = [0]

    def look(_: Any, progress: Any) -> None:
        if progress.percent >= seen[0] + _STEP:
            seen[0] = progress.percent
            release(path)

    image.set_progress(True)
    image.signal_connect("eval", look)
    try:
        # pyvips calls `look` through this object, which must therefore outlive all work on its image.
        yield
    finally:
        image.set_progress(False)  # libvips may keep the image in its cache


def release(path: Path) -> int:
    """Release the pages of all read-only mappings of a file. Returns the size of the mappings in bytes."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    dont_need = 4
    name, given = str(path.resolve()), 0
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name and fields[1].startswith("r-"):
            start, end = (int(number, 16) for number in fields[0].split("-"))
            madvise(start, end - start, dont_need)
            given += end - start
    return given
