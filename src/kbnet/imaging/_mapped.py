"""Files that libvips maps into memory: what it has read is given back, or it would count as memory of this process."""

import ctypes
import sys
from pathlib import Path
from typing import Any

_STEP = 2  # percent of the work between two looks


def keep_unmapped(image: Any, path: Path) -> None:
    """While `image` is written, give back the pages of the mapped file `path` every so often; on Linux alone.

    Nothing is lost: the mapping is read only, and a page that is read once more comes from the file again.
    """
    if sys.platform != "linux":
        return
    seen = [0]

    def look(_: Any, progress: Any) -> None:
        if progress.percent >= seen[0] + _STEP:
            seen[0] = progress.percent
            release(path)

    image.set_progress(True)
    image.signal_connect("eval", look)


def release(path: Path) -> int:
    """Give back what is mapped of a file for reading; the number of bytes of its mappings."""
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
