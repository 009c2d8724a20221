"""Photos as 8-bit arrays: decoded once, then kept in memory or, if they don't fit, mapped from a cache on disk."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kbnet import files
from kbnet.errors import ImageError, InvalidInputError
from kbnet.imaging import probe, read_photo, to_depth
from kbnet.inference.look import LUMA
from kbnet.lines import read_lines

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

MANIFEST = "manifest.jsonl"
_VERSION = 2  # of the cache; increment it when the output of `decode` changes
_SAMPLES, _SAMPLE = 16, 4096  # number and bytes of the pieces of a file that its digest covers


def decode(path: Path, channels: int) -> Pixels:
    """Decode a photo to uint8 [H,W,3] or, with channels = 1, to [H,W] luma (ITU-R BT.601, rounded).

    Raises:
        ImageError: the file can't be read.
    """
    pixels: Pixels = to_depth(read_photo(path).pixels, 8).astype(np.uint8, copy=False)
    if channels == 1 and pixels.ndim == 3:
        pixels = np.rint(pixels @ np.array(LUMA)).astype(np.uint8)
    if channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return pixels


def to_tensor(pixels: Pixels) -> Tensor:
    """Convert uint8 [H,W] or [H,W,3] to float32 [C,H,W] in [0,1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    return (tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)).float() / 255


def decode_all(
    paths: Sequence[Path], channels: int, *, memory: int | None = None, cache: Path | None = None
) -> dict[Path, Pixels | None]:
    """Decode many photos. A photo that can't be read is logged as a warning and is None in the result.

    Args:
        paths: the files. Duplicates are read once.
        channels: 3 or 1, as for `decode`.
        memory: maximum bytes for the decoded photos; None for no limit.
        cache: folder to use if the photos don't fit into `memory`. It gets one .npy file per photo, which is mapped,
            not loaded. Existing entries for files with the same size and modification time are reused, so an
            interrupted build continues.

    Raises:
        InvalidInputError: the photos don't fit into `memory`, and `cache` is None.
        OutputError: the cache can't be written.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        if memory is not None:
            needed = sum(pool.map(lambda path: _decoded_bytes(path, channels), unique))
            if needed > memory:
                if cache is None:
                    raise InvalidInputError(
                        f"the photos take {needed / 2**30:.1f} GiB, more than the {memory / 2**30:.1f} GiB allowed"
                    )
                _log.info("%.1f GiB of photos are mapped from %s", needed / 2**30, cache)
                return dict(zip(unique, _Cache(cache, channels).map(unique, pool), strict=True))
        return dict(zip(unique, pool.map(lambda path: _try_decode(path, channels), unique), strict=True))


def _try_decode(path: Path, channels: int) -> Pixels | None:
    try:
        return decode(path, channels)
    except (ImageError, OSError) as error:
        _log.warning("skipped: %s", error)
        return None


def _decoded_bytes(path: Path, channels: int) -> int:
    try:
        info = probe(path)
    except (ImageError, OSError):
        return 0  # reported when it is decoded
    return info.width * info.height * channels


def _sampled_digest(path: Path) -> str:
    """Return the SHA-256 of a file's length and of samples of its content, without reading the whole file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        found.update(str(size).encode())
        for piece in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * piece // (_SAMPLES - 1))
            found.update(file.read(_SAMPLE))
    return found.hexdigest()


class _Cache:
    """Decoded photos as .npy files, and a manifest with a line of JSON for each.

    A photo's file is complete before its line is written, and incomplete lines are ignored. So a build can be killed,
    and several processes can share a folder: at worst, a photo is decoded twice, with the same result.
    """

    def __init__(self, folder: Path, channels: int) -> None:
        files.make_folder(folder)
        self._folder, self._channels = folder, channels
        self._known: dict[str, dict[str, Any]] = {}
        manifest = folder / MANIFEST
        if manifest.exists():
            try:
                text = manifest.read_bytes()
                if text and not text.endswith(b"\n"):  # a build was killed while writing this line
                    with manifest.open("ab") as file:
                        file.write(b"\n")
            except OSError as error:
                raise files.failed(manifest, error) from None
            self._known = {str(entry.get("file")): entry for entry in read_lines(text)}

    def map(self, paths: Iterable[Path], pool: ThreadPoolExecutor) -> list[Pixels | None]:
        return list(pool.map(self._one, paths))

    def _one(self, path: Path) -> Pixels | None:
        try:
            status = path.stat()
        except OSError as error:
            _log.warning("skipped: %s: %s", path, error.strerror)
            return None
        name = hashlib.sha256(f"{path.resolve()} {self._channels}".encode("utf-8", "backslashreplace")).hexdigest()[:24]
        target = self._folder / f"{name}.npy"
        facts = {
            "version": _VERSION,
            "file": target.name,
            "photo": path.name,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
        known = self._known.get(target.name)
        if known is not None and {key: known.get(key) for key in facts} == facts:
            try:
                if _sampled_digest(target) == known["digest"]:
                    return self._open(target, tuple(known["shape"]))
            except (OSError, ValueError, KeyError, TypeError, EOFError):
                pass  # missing or damaged: decode again
        pixels = _try_decode(path, self._channels)
        if pixels is None:
            return None
        with files.writing(target, overwrite=True) as file:
            np.save(file, pixels)
        self._note(facts | {"shape": pixels.shape, "digest": _sampled_digest(target)})
        return self._open(target, pixels.shape)

    def _note(self, entry: dict[str, Any]) -> None:
        """Add a line to the manifest in a single write, since other processes may do so at the same time."""
        manifest = self._folder / MANIFEST
        try:
            with manifest.open("ab", buffering=0) as file:
                file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise files.failed(manifest, error) from None

    def _open(self, target: Path, shape: tuple[int, ...]) -> Pixels:
        pixels: Pixels = np.load(target, mmap_mode="r")
        if pixels.shape != shape or pixels.dtype != np.uint8:
            raise ValueError("does not match the manifest")
        return pixels
