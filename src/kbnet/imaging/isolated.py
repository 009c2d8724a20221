"""Decodes one file of an untrusted sender in a child process, with limits on its memory and time.

The child gets the bytes of the file, and returns pixels or a size. A crash, a hang or an explosion of memory ends the
child, and is reported as a damaged file.
"""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import UnreadableImageError, UnsupportedImageError
from kbnet.imaging.photo import Pixels

_BASE = 1_500_000_000  # bytes of address space for Python, NumPy and libvips themselves
_PER_PIXEL = 64  # bytes: planes of the decoder, and copies of the result
_UNREADABLE, _UNSUPPORTED = 3, 4  # exit status after a message for the user


@dataclass(frozen=True)
class Isolation:
    """The limits of a child process.

    Attributes:
        seconds: of its work, in total.
        pixels: that it may decode; decides its memory.
    """

    seconds: float = 60.0
    pixels: int = 100_000_000

    @property
    def address_space(self) -> int:
        """The largest size of its memory, bytes."""
        return _BASE + _PER_PIXEL * self.pixels


HEADERS = Isolation(seconds=10, pixels=0)
"""The limits for reading a header."""


def decode(kind: str, data: bytes, name: str, isolation: Isolation) -> NDArray[Any]:
    """Decode a file as `heif.decode`, `raw.develop` or `raw.size` does it, in a child process.

    Args:
        kind: a key of `_DECODERS`, such as "heic"; "raw-size" for the height and width of a developed raw file.
        data: bytes of the file.
        name: of the file, for messages.
        isolation: the limits.

    Raises:
        UnreadableImageError: the file is damaged, or exceeded a limit.
        UnsupportedImageError: the file took too long to decode.
    """
    code = "import sys; from kbnet.imaging.isolated import child; sys.exit(child(sys.argv[1:]))"
    limits = [str(isolation.address_space), str(max(int(isolation.seconds), 1))]
    command = [sys.executable, "-c", code, kind, *limits]
    # one thread: the threads of libraries would reserve address space
    settings = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1", "PYTHONPATH": _path()}
    try:
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            timeout=isolation.seconds,
            env={**os.environ, **settings},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedImageError(
            f"{name}: decoding took longer than {isolation.seconds:g} seconds; convert it to JPEG or PNG"
        ) from None
    if done.returncode == 0:
        array: NDArray[Any] = np.load(io.BytesIO(done.stdout), allow_pickle=False)
        return array
    if done.returncode in (_UNREADABLE, _UNSUPPORTED):
        kind_of_error = UnreadableImageError if done.returncode == _UNREADABLE else UnsupportedImageError
        told = done.stderr.decode("utf-8", "replace").splitlines()  # the decoder's own messages come first
        raise kind_of_error(f"{name}: {told[-1]}")
    raise UnreadableImageError(f"{name}: the file is damaged, or needs too much memory to decode")


def _path() -> str:
    """The child's module path: the same as here."""
    return os.pathsep.join(filter(None, sys.path))


def _heic(data: bytes) -> Pixels:
    from kbnet.imaging import heif

    return heif.decode(data, "the file")


def _raw(data: bytes) -> Pixels:
    from kbnet.imaging import raw

    return raw.develop(data, "the file")


def _raw_size(data: bytes) -> NDArray[np.int64]:
    from kbnet.imaging import raw

    return np.array(raw.size(data, "the file"))


_DECODERS: dict[str, Callable[[bytes], NDArray[Any]]] = {"heic": _heic, "raw": _raw, "raw-size": _raw_size}


def _limit(address_space: int, seconds: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return
    for what, most in ((resource.RLIMIT_AS, address_space), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def child(arguments: list[str]) -> int:
    """Decode standard input to standard output; return the exit status."""
    kind, address_space, seconds = arguments[0], int(arguments[1]), int(arguments[2])
    data = sys.stdin.buffer.read()
    _limit(address_space, seconds)
    try:
        pixels: Any = _DECODERS[kind](data)
    except (UnreadableImageError, UnsupportedImageError) as error:
        sys.stderr.write(str(error).removeprefix("the file: "))
        return _UNREADABLE if isinstance(error, UnreadableImageError) else _UNSUPPORTED
    target = io.BytesIO()
    np.save(target, pixels, allow_pickle=False)
    sys.stdout.buffer.write(target.getbuffer())
    return 0
