"""The authors' own weights from mirrors: fetched piece by piece, checked tensor by tensor, kept as our own files.

The authors' links have died; the mirror below is said to hold two of their files. No checksum of them is known here, so
what is checked is that a file holds the tensors of that network, by name and shape, and numbers alone.
"""

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kbnet.errors import CheckpointError, DownloadError, InvalidInputError, OutputError, OutputExistsError
from kbnet.models.checkpoint import MAX_FILE_BYTES, load_file, save_file
from kbnet.models.presets import PRESETS

MIRROR = "https://github.com/OpenModelDB/model-hub/releases/download/kbnet"
"""Said to be alive; not reached by any test."""

_PIECE = 1 << 20
_TIMEOUT = 60  # seconds without a byte

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
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} is there already; give another name, or --overwrite")
    wanted = AUTHORS_FILES[name]
    part = target.with_name(f"{wanted.file}.part")
    try:
        _fetch(f"{mirror.rstrip('/')}/{wanted.file}", part, progress)
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{error.url}: the mirror answers {error.code} {error.reason}; give another --mirror"
        ) from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{mirror} cannot be reached: {error.reason}; start again to go on") from error
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise DownloadError(f"{mirror} sends nothing any more; start again to go on") from error
    except DownloadError:  # an OSError too
        raise
    except OSError as error:
        raise OutputError(f"{part} cannot be written: {error.strerror or error}") from error
    try:
        network = load_file(part)
        if network.config != PRESETS[wanted.preset]:
            raise CheckpointError(f"expected the settings of {wanted.preset} in {wanted.file}, got {network.config}")
        save_file(network, target, overwrite=overwrite)
    except CheckpointError as error:
        raise CheckpointError(f"what {mirror} sent is not {wanted.file} and was deleted: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _fetch(url: str, part: Path, progress: Progress) -> None:
    """Bytes of `url` into `part`, from where it ends."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or the file is another one now
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink()
            _fetch(url, part, progress)
            return
        raise
    with contextlib.closing(answer):
        if answer.status != 206:  # the mirror cannot go on: all of it again
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        if total > MAX_FILE_BYTES:
            raise DownloadError(f"{url} has {total} bytes, over the limit of {MAX_FILE_BYTES}")
        with part.open("ab" if have else "wb") as file:
            while piece := answer.read(_PIECE):
                file.write(piece)
                have += len(piece)
                if have > MAX_FILE_BYTES:
                    raise DownloadError(f"{url} has over {MAX_FILE_BYTES} bytes")
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total and have < total:
        raise DownloadError(f"{url} ended after {have} of {total} bytes; start again to go on")
