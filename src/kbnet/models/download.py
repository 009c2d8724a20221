"""The authors' own weights from mirrors: fetched piece by piece, checked tensor by tensor, kept as our own files.

The authors' links have died; the mirror below is said to hold two of their files. No checksum of them is known here, so
what is checked is that a file holds the tensors of that network, by name and shape, and numbers alone.
"""

import contextlib
import http.client
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbnet import files
from kbnet.errors import CheckpointError, DownloadError, InvalidInputError, OutputError
from kbnet.models.checkpoint import MAX_FILE_BYTES, load_file, save_file
from kbnet.models.presets import PRESETS

MIRROR = "https://github.com/OpenModelDB/model-hub/releases/download/kbnet"
"""Said to be alive; not reached by any test."""

_PIECE = 1 << 20
_TIMEOUT = 60  # seconds without a byte
_NOTHING_LEFT = 416  # HTTP's Range Not Satisfiable
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AuthorsFile:
    """One of the authors' files: its name on the mirror, the preset whose weights it holds, and its task."""

    file: str
    preset: str
    task: str


AUTHORS_FILES = {
    "kbnet-l-derain": AuthorsFile("1x-KBNet_derain.pth", "kbnet-l-derain", "derain"),
    "kbnet-s-real": AuthorsFile("1x-KBNet_sidd.pth", "kbnet-s-real", "denoise"),
}
"""What there is, by preset."""


class _Part:
    """The file of a download that may have to go on later; what fails names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, _FLAGS, 0o600)
        except OSError as error:
            raise files.failed(path, error) from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise OutputError(f"{files.printable(path)}: expected a file or nothing there; remove it")

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        os.close(self._descriptor)

    def end(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def write(self, data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise files.failed(self.path, error) from None

    def flush_to_disk(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise files.failed(self.path, error) from None


def download(
    name: str,
    target: Path,
    *,
    mirror: str = MIRROR,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Fetch the authors' weights of a preset and keep them as a .safetensors file.

    An interrupted download goes on: until it is whole, its bytes lie beside `target`, in NAME.pth.part.

    Args:
        name: one of `AUTHORS_FILES`.
        target: ends in .safetensors.
        mirror: address of the folder that holds the file; https, or http to this machine.
        overwrite: whether `target` may be replaced.
        progress: called with (bytes there, bytes in all, 0 if unknown).

    Raises:
        InvalidInputError: no such file, another ending, or another kind of address.
        DownloadError: the mirror refuses, or cannot be reached.
        CheckpointError: what came is not the weights of that network; it is deleted.
        OutputExistsError, OutputError: `target` is there, or cannot be written.
    """
    if name not in AUTHORS_FILES:
        raise InvalidInputError(f"expected one of {', '.join(AUTHORS_FILES)}, got {name!r}")
    if target.suffix.lower() != ".safetensors":
        raise InvalidInputError(f"expected a name ending in .safetensors, got {target}")
    if not mirror.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise InvalidInputError(f"expected an https address of a mirror, got {mirror!r}")
    files.check(target, overwrite=overwrite)
    wanted = AUTHORS_FILES[name]
    part = target.with_name(f"{wanted.file}.part")
    with _opened(part) as file:
        _fetch(mirror, wanted.file, file, progress)
        try:
            network = load_file(part)
            if network.config != PRESETS[wanted.preset]:
                raise CheckpointError(
                    f"expected the settings of {wanted.preset} in {wanted.file}, got {network.config}"
                )
        except CheckpointError as error:
            part.unlink(missing_ok=True)
            raise CheckpointError(f"what {mirror} sent is not {wanted.file} and was deleted: {error}") from error
        save_file(network, target, overwrite=overwrite)
        part.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[_Part]:
    """The bytes that are there already, held by this process: two downloads would fill one file."""
    file = _Part(part)
    try:
        files.lock(file.fileno(), part, doing="downloading into", otherwise="choose another name")
        yield file
    finally:
        if not file.end():
            part.unlink(missing_ok=True)
        file.close()


@contextlib.contextmanager
def _asking(mirror: str) -> Iterator[None]:
    """Around calls of the network alone."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == _NOTHING_LEFT:
            raise
        raise DownloadError(
            f"{error.url}: the mirror answers {error.code} {error.reason}; give another --mirror"
        ) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{mirror} cannot be reached: {error.reason}; start again to go on") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{mirror} sends nothing any more; start again to go on") from error


def _fetch(mirror: str, name: str, part: _Part, progress: Progress) -> None:
    """Bytes of a file of the mirror into `part`, from where it ends."""
    url = f"{mirror.rstrip('/')}/{name}"
    have = part.end()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with _asking(mirror):
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:  # nothing is left to send, or the file is another one now
        if not error.headers.get("Content-Range", "").endswith(f"/{have}"):
            if not have:
                raise DownloadError(f"{url}: the mirror answers {error.code}; give another --mirror") from error
            part.cut(0)
            _fetch(mirror, name, part, progress)
        return
    with contextlib.closing(answer):
        if answer.status != 206:  # the mirror cannot go on: all of it again
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        if total > MAX_FILE_BYTES:
            raise DownloadError(f"{url} has {total} bytes, over the limit of {MAX_FILE_BYTES}")
        part.cut(have)
        while True:
            with _asking(mirror):
                piece = answer.read(_PIECE)
            if not piece:
                break
            part.write(piece)
            have += len(piece)
            if have > MAX_FILE_BYTES:
                raise DownloadError(f"{url} has over {MAX_FILE_BYTES} bytes")
            progress(have, total)
        part.flush_to_disk()
    if total and have < total:
        raise DownloadError(f"{url} ended after {have} of {total} bytes; start again to go on")
