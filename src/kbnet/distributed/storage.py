"""Reads, lists and atomically writes files by path or URL. Storage other than local file systems requires pyarrow, and
fsspec for what pyarrow doesn't support.

A URL's path is used literally, without percent-decoding, as in the command-line tools of object stores. It can be
followed by options for pyarrow.fs such as `?region=...&endpoint_override=...`.
"""

import contextlib
import re
import secrets
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kbnet import files
from kbnet.errors import InvalidInputError, MissingExtraError, OutputError, OutputExistsError, UnreadableImageError
from kbnet.files import printable

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://([^/?]*)([^?]*)((?:\?[\w.-]+=[^?]*)?)")
# URL schemes that pyarrow supports without another package; fsspec handles all others.
_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
# Object stores where an object appears when its upload is complete, and where renaming copies the object.
_WHOLE_UPLOADS = ("s3", "gcs", "abfs")
_HERE = ("file", "local")
_PART = re.compile(r"\.kbnet-[0-9a-f]{16}\.part")
_DAY = 24 * 3600  # seconds
_swept: set[tuple[str, str]] = set()


def is_url(place: str) -> bool:
    """Return whether it is a URL such as s3://bucket/folder, rather than a local path."""
    return _URL.match(place) is not None


def join(folder: str, name: str) -> str:
    """Join a folder, given as a local path or a URL, and a relative name with slashes."""
    if not is_url(folder):
        return str(Path(folder, name))
    base, query = _split_query(folder)
    return f"{base.rstrip('/')}/{name}{query}"


def read(place: str) -> bytes:
    """Read the bytes of a file.

    Raises:
        UnreadableImageError: the file doesn't exist or permission is denied; retrying doesn't help.
        OSError: another error, which may be temporary.
    """
    try:
        if not is_url(place):
            return Path(place).read_bytes()
        filesystem, path = _open(place)
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        why = (error.strerror or "no such file or no permission").lower()
        raise UnreadableImageError(f"{printable(place)}: can't be read: {why}") from None


def write(
    place: str,
    data: bytes,
    *,
    overwrite: bool = False,
    times: files.Times | None = None,
    like: Path | None = None,
) -> None:
    """Write a file to `place` atomically. Creates folders if needed.

    On local file systems, an existing file is never replaced unless `overwrite` is True, as in `kbnet.files`. Other
    storage can't guarantee this; there, existence is checked right before writing.

    Args:
        place: path or URL.
        data: content of the file.
        overwrite: whether to replace an existing file.
        times, like: as for `kbnet.files.write`. Other storage has no such times and permissions, and ignores them.

    Raises:
        OutputExistsError: the file exists and `overwrite` is False.
        OutputError: the file can't be written; its `errno` tells whether retrying may help.
        OSError: another error, which may be temporary.
    """
    local = local_path(place)
    if local is not None:
        files.make_folder(local.parent)
        files.write(data, local, overwrite=overwrite, times=times, like=like)
        return
    filesystem, path = _open(place)
    try:
        if not overwrite and _is_there(filesystem, path):
            raise OutputExistsError(f"{printable(place)}: the file exists; choose another name or allow overwriting")
        if filesystem.type_name in _WHOLE_UPLOADS:
            _upload(filesystem, path, data)
            return
        folder = path.rpartition("/")[0]
        filesystem.create_dir(folder, recursive=True)
        _sweep(filesystem, folder)
        part = f"{folder}/.kbnet-{secrets.token_hex(8)}.part"
        try:
            _upload(filesystem, part, data)
            filesystem.move(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                filesystem.delete_file(part)
            raise
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        why = (error.strerror or "not allowed").lower()
        raise OutputError(
            f"{printable(place)}: can't be written: {why}; check the folder and its permissions"
        ) from None


def local_folders(places: Iterable[str]) -> set[Path]:
    """Return the folders of those places that are on local file systems."""
    return {local.parent for local in map(local_path, places) if local is not None}


def local_path(place: str) -> Path | None:
    """Return the path of a place on a local file system; None for other storage."""
    match = _URL.fullmatch(place)
    if match is None:
        return Path(place)
    scheme, host, path, query = match.groups()
    return Path(path or "/") if scheme.lower() in _HERE and not host and not query else None


def same(one: str, other: str) -> bool:
    """Return whether two places are the same file, however they are spelled if they are local."""
    if one == other:
        return True
    first, second = local_path(one), local_path(other)
    return first is not None and second is not None and files.same(first, second)


def files_below(place: str) -> dict[str, int]:
    """Return the size of each file below a URL's folder, by its relative name; for a file, its own name and size.

    Raises:
        InvalidInputError: nothing exists at the URL.
    """
    from pyarrow.fs import FileSelector, FileType

    filesystem, path = _open(place)
    info = filesystem.get_file_info(path)
    if info.type == FileType.File:
        return {path.rpartition("/")[2]: info.size}
    if info.type == FileType.NotFound:
        raise InvalidInputError(f"expected a file or folder, found nothing at {printable(place)}")
    found = filesystem.get_file_info(FileSelector(path, recursive=True))
    root = path.strip("/")
    return {
        entry.path.strip("/").removeprefix(root).lstrip("/"): entry.size
        for entry in found
        if entry.type == FileType.File
    }


def is_file(place: str) -> bool:
    """Return whether a URL refers to a file, rather than a folder or nothing."""
    from pyarrow.fs import FileType

    filesystem, path = _open(place)
    return bool(filesystem.get_file_info(path).type == FileType.File)


def _is_there(filesystem: Any, path: str) -> bool:
    from pyarrow.fs import FileType

    return bool(filesystem.get_file_info(path).type != FileType.NotFound)


def _sweep(filesystem: Any, folder: str) -> None:
    """Remove leftovers of killed workers that are over a day old, as there are no locks. Done once per folder."""
    from pyarrow.fs import FileSelector

    if (filesystem.type_name, folder) in _swept:
        return
    _swept.add((filesystem.type_name, folder))
    with contextlib.suppress(OSError):
        for entry in filesystem.get_file_info(FileSelector(folder)):
            name = entry.path.rpartition("/")[2]
            if _PART.fullmatch(name) and entry.mtime_ns and time.time() - entry.mtime_ns / 1e9 > _DAY:
                filesystem.delete_file(entry.path)


def _upload(filesystem: Any, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def _split_query(url: str) -> tuple[str, str]:
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidInputError(f"expected a URL such as s3://bucket/folder, got {printable(url)}")
    return f"{match[1]}://{match[2]}{match[3]}", match[4]


def _open(url: str) -> tuple[Any, str]:
    """Return the pyarrow file system of a URL, and the path in it."""
    match = _URL.fullmatch(url)
    if match is None:
        raise InvalidInputError(f"expected a URL such as s3://bucket/folder, got {printable(url)}")
    scheme, host, path, query = match.groups()
    if scheme.lower() in _ARROW:
        filesystem, base = _arrow(scheme.lower(), host, query)
        return filesystem, (base.rstrip("/") + path) or "/"
    return _fsspec(f"{scheme}://{host}{path}")


@cache
def _arrow(scheme: str, host: str, query: str) -> tuple[Any, str]:
    """Open a file system once per process, since an S3 bucket's region is looked up over the network."""
    try:
        import pyarrow.fs
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "ray") from None
    try:
        filesystem, base = pyarrow.fs.FileSystem.from_uri(f"{scheme}://{quote(host, safe=':@')}/{query}")
    except (ValueError, NotImplementedError) as error:
        raise InvalidInputError(f"expected a URL that pyarrow supports, got {scheme}://{host}: {error}") from None
    return filesystem, str(base)


def _fsspec(url: str) -> tuple[Any, str]:
    try:
        import fsspec
        from pyarrow.fs import FSSpecHandler, PyFileSystem
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "ray") from None
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ValueError as error:
        raise InvalidInputError(f"expected a URL that fsspec supports, got {printable(url)}: {error}") from None
    except ImportError as error:
        raise InvalidInputError(f"{printable(url)}: {error}") from None  # the error names the package to install
    return PyFileSystem(FSSpecHandler(filesystem)), str(path)
