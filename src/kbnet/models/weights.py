"""Weights files as numpy arrays. Reading executes nothing in them, and checks them against the network's settings.

kbnet's own files are safetensors with the network's settings in the header. The authors' checkpoints are pickles of
tensors, which only PyTorch reads safely: `kbnet.nn.checkpoint`.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from kbnet import files
from kbnet.errors import CheckpointError, InvalidInputError
from kbnet.models.config import CONFIGS, Config, config_from
from kbnet.models.description import shapes_of
from kbnet.models.usage import HEADER, Usage

MAX_FILE_BYTES = 8 * 2**30
"""Larger files are rejected. The largest published network takes 0.6 GB."""

MAPPED_BYTES = 64 * 2**20
"""Larger files are mapped into memory instead of read."""

Arrays = Mapping[str, NDArray[Any]]

_STORED: dict[str, Any] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_EXPONENT = 0x7F80  # of bfloat16; all bits set for infinity and NaN


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's settings and parameters.

    Attributes:
        config: the settings.
        arrays: every parameter under its `state_dict` name: float64, float32, float16, or bfloat16 as raw uint16. Those
            of a large file are mapped and read-only.
        fast_dtype: what dtype "auto" may multiply in: float32, or bfloat16 if that measurably changes next to nothing.
        mapping: the file that `arrays` are mapped from, if they are.
    """

    config: Config
    arrays: Arrays
    fast_dtype: str = "float32"
    mapping: mmap.mmap | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # a pickled or deep copy has arrays of its own
        return Weights, (self.config, self.arrays, self.fast_dtype)

    def used(self, name: str, read: Callable[[NDArray[Any]], Any]) -> Any:
        """Return what `read` returns for a parameter, without keeping its part of a mapped file in memory."""
        found = read(self.arrays[name])
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            with suppress(OSError):  # pages that are locked in memory
                self.mapping.madvise(mmap.MADV_DONTNEED)
        return found

    @property
    def parameters(self) -> int:
        """The number of learned values."""
        return sum(array.size for array in self.arrays.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the settings and all values, in hexadecimal."""
        found = hashlib.sha256(json.dumps([self.config.family, asdict(self.config)], sort_keys=True).encode())

        def add(name: str, array: NDArray[Any]) -> None:
            values = widened(array)
            found.update(f"{name} {values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).data)

        for name in sorted(self.arrays):
            self.used(name, partial(add, name))
        return found.hexdigest()


def widened(array: NDArray[Any]) -> NDArray[Any]:
    """Return stored values as float32; float32 and float64 unchanged."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def read_weights(path: Path) -> Weights:
    """Read a file in kbnet's or the authors' format, and check it against its settings.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe to load, or belongs to another network; the message names
            the file.
        MissingExtraError: it is one of the authors' files, and PyTorch isn't installed.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"can't read the weights file {path}: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} is too large for a weights file: {size} bytes, the limit is {MAX_FILE_BYTES}")
    if start[8:9] == b"{":  # eight bytes of header length, then JSON
        weights = _read_own(path)
    elif start[:2] in (b"PK", b"\x80\x02"):  # a zip of torch.save, or its older plain pickle
        from kbnet.nn import checkpoint

        weights = checkpoint.read_official(path)
    else:
        raise CheckpointError(f"{path} is not a weights file: expected .safetensors, or a file written by torch.save")
    _check(weights, path)
    return weights


def write_weights(weights: Weights, path: Path, *, usage: Usage | None = None, overwrite: bool = False) -> None:
    """Write a file in kbnet's own format; float16 and bfloat16 are stored as float32.

    Args:
        weights: settings and parameters.
        path: path of the file to write.
        usage: task, context and window, for the header; the Restorer uses them.
        overwrite: whether to replace an existing file.

    Raises:
        OutputExistsError: the file exists and `overwrite` is false.
        OutputError: the file can't be written.
    """
    arrays = {name: np.ascontiguousarray(widened(array)) for name, array in weights.arrays.items()}
    files.write(serialize(arrays, metadata=header_of(weights.config, usage)), path, overwrite=overwrite)


def header_of(config: Config, usage: Usage | None = None) -> dict[str, str]:
    """Return what the header of kbnet's own files holds besides the tensors."""
    header = {"kbnet": "1", "family": config.family, "settings": json.dumps(asdict(config))}
    return header if usage is None else {**header, HEADER: usage.to_json()}


def _read_own(path: Path) -> Weights:
    try:
        with safe_open(path, framework="np") as file:  # checks the layout of the file
            header = file.metadata() or {}
        if header.get("kbnet") != "1" or header.get("family") not in CONFIGS:
            raise CheckpointError(
                f"{path} is a .safetensors file that kbnet didn't write; give kbnet's own weights file"
            )
        contents = _contents(path)
        arrays, mapping = _arrays_of(contents), contents if isinstance(contents, mmap.mmap) else None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({first_line(error)}); get a new copy") from error
    except (ValueError, KeyError, TypeError) as error:  # another program changed it after the check
        raise CheckpointError(f"{path} is damaged ({first_line(error)}); get a new copy") from error
    try:
        config = config_from(header["family"], json.loads(header.get("settings", "")))
    except (ValueError, RecursionError, TypeError) as error:  # InvalidInputError and JSON errors too
        raise CheckpointError(f"{path}: invalid network settings in the header: {first_line(error)}") from error
    return Weights(config, arrays, mapping=mapping)


def _contents(path: Path) -> bytearray | mmap.mmap:
    """Return the bytes of a file; if it's large, mapped to be read only."""
    with path.open("rb") as file:
        size = path.stat().st_size
        if size > MAPPED_BYTES:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = bytearray(size)
        del data[file.readinto(data) :]
        return data


def _arrays_of(data: bytearray | mmap.mmap) -> dict[str, NDArray[Any]]:
    """Return views of the tensors in a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        shape, dtype = tuple(entry["shape"]), _STORED.get(entry["dtype"])
        if dtype is None:
            arrays[name] = np.broadcast_to(np.False_, shape)  # of no use: `_check` refuses its type
            continue
        offset = start + int(entry["data_offsets"][0])
        flat: NDArray[Any] = np.frombuffer(data, dtype, math.prod(shape), offset)
        array = flat.reshape(shape)
        arrays[name] = array if array.flags.aligned else array.copy()
    return arrays


def _check(weights: Weights, path: Path) -> None:
    """Raise CheckpointError unless the parameters are those of the network with these settings."""
    arrays = weights.arrays
    try:
        expected = shapes_of(weights.config)
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: invalid network settings: {error}") from error
    if missing := sorted(expected.keys() ^ arrays.keys()):
        raise CheckpointError(f"{path}: tensors don't match the network: missing or unexpected: {some(missing)}")
    if wrong := [key for key, shape in expected.items() if shape != arrays[key].shape]:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: expected {key} of shape {list(expected[key])}, got {list(arrays[key].shape)} "
            f"(shape mismatches: {len(wrong)})"
        )
    if bad := [key for key in arrays if not weights.used(key, _is_finite)]:
        raise CheckpointError(f"{path}: not a finite floating-point tensor: {some(bad)}")


def _is_finite(array: NDArray[Any]) -> bool:
    if array.dtype == np.uint16:
        return not bool(((array & _EXPONENT) == _EXPONENT).any())
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def some(names: list[str]) -> str:
    """Name the first few of many, for a one-line message."""
    return ", ".join(printable(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 160)


def printable(text: str, length: int = 80) -> str:
    """Make text from a file safe for a one-line message."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])
