"""Downloads of the authors' weights from a mirror: resumable, checked tensor by tensor, converted to kbnet's format.

The authors' own links are dead; the mirror below reportedly hosts two of their files. Their checksums are unknown, so
kbnet checks instead that a file holds nothing but the network's tensors, with the right names and shapes.
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
from kbnet.models.config import PRESETS
from kbnet.models.weights import MAX_FILE_BYTES
from kbnet.nn.checkpoint import load_file, save_file

MIRROR = "https://github.com/OpenModelDB/model-hub/releases/download/kbnet"
"""Default mirror. No test contacts it, so it may be unavailable."""

_PIECE = 1 << 20
_TIMEOUT = 60  # seconds without any data
_NOTHING_LEFT = 416  # HTTP status Range Not Satisfiable
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class AuthorsFile:
    """One of the authors' weights files: its name on the mirror, its preset and its task."""

    file: str
    preset: str
    task: str


AUTHORS_FILES = {
    "kbnet-l-derain": AuthorsFile("1x-KBNet_derain.pth", "kbnet-l-derain", "derain"),
    "kbnet-s-real": AuthorsFile("1x-KBNet_sidd.pth", "kbnet-s-real", "denoise"),
}
"""The files that the mirror offers, by preset."""


class _Part:
    """The partial file of a resumable download. Its errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, _FLAGS, 0o600)
        except OSError as error:
            raise files.failed(path, error) from None
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise OutputError(f"{files.printable(path)} is not a regular file; remove it")

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
    """Download the authors' weights of a preset and save them as a .safetensors file.

    Calling it again resumes an interrupted download: partial data stays in NAME.pth.part, next to `target`.

    Args:
        name: one of `AUTHORS_FILES`.
        target: path of the file to write, ending in .safetensors.
        mirror: URL of the folder that holds the file: https, or http to this machine.
        overwrite: whether to replace `target` if it exists.
        progress: called with the bytes received so far and in total (0 if unknown).

    Returns:
        `target`.

    Raises:
        InvalidInputError: `name` is unknown, `target` doesn't end in .safetensors, or `mirror` isn't https.
        DownloadError: the mirror returns an error or can't be reached.
        CheckpointError: the file isn't the weights of that network; it is deleted.
        OutputExistsError, OutputError: `target` exists or can't be written.
    """
    if name not in AUTHORS_FILES:
        raise InvalidInputError(f"expected one of {', '.join(AUTHORS_FILES)}, got {name!r}")
    if target.suffix.lower() != ".safetensors":
        raise InvalidInputError(f"expected a file name that ends in .safetensors, got {target}")
    if not mirror.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
        raise InvalidInputError(f"expected the https URL of a mirror, got {mirror!r}")
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
            raise CheckpointError(f"{mirror} sent an invalid {wanted.file}, which was deleted: {error}") from error
        save_file(network, target, overwrite=overwrite)
        part.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def _opened(part: Path) -> Iterator[_Part]:
    """Open the partial file and lock it, so that no two downloads write to it."""
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
    """Turn errors of network calls into DownloadError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == _NOTHING_LEFT:
            raise
        raise DownloadError(
            f"{error.url}: the mirror returned {error.code} {error.reason}; try another --mirror"
        ) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"can't reach {mirror}: {error.reason}; try again to resume") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"the connection to {mirror} was lost; try again to resume") from error


def _fetch(mirror: str, name: str, part: _Part, progress: Progress) -> None:
    """Download a file from the mirror into `part`, resuming at its end."""
    url = f"{mirror.rstrip('/')}/{name}"
    have = part.end()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with _asking(mirror):
            answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:  # either nothing is left to send, or the file on the mirror changed
        if not error.headers.get("Content-Range", "").endswith(f"/{have}"):
            if not have:
                raise DownloadError(f"{url}: the mirror returned {error.code}; try another --mirror") from error
            part.cut(0)
            _fetch(mirror, name, part, progress)
        return
    with contextlib.closing(answer):
        if answer.status != 206:  # the mirror can't resume: start over
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        if total > MAX_FILE_BYTES:
            raise DownloadError(f"{url} is too large: {total} bytes, the limit is {MAX_FILE_BYTES}")
        part.cut(have)
        while True:
            with _asking(mirror):
                piece = answer.read(_PIECE)
            if not piece:
                break
            part.write(piece)
            have += len(piece)
            if have > MAX_FILE_BYTES:
                raise DownloadError(f"{url} is larger than the limit of {MAX_FILE_BYTES} bytes")
            progress(have, total)
        part.flush_to_disk()
    if total and have < total:
        raise DownloadError(f"{url} ended after {have} of {total} bytes; try again to resume")
