"""Weights files: read without running anything in them, checked against the network before any of it is built.

Two kinds are read: our own (safetensors with the network's settings in the header) and the authors' (a pickle with the
tensors under `net`, `model` or `params`, keys perhaps prefixed `module.`; opened with `weights_only=True`), from whose
shapes alone the settings are told.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from kbnet import files
from kbnet.errors import CheckpointError, InvalidInputError
from kbnet.models.kbnet_l import KBNetLConfig
from kbnet.models.kbnet_s import KBNetSConfig
from kbnet.models.official_keys import FIRST_KEY, from_official, to_official
from kbnet.models.presets import PRESETS, Config, Network, build

MAX_FILE_BYTES = 8 * 2**30
"""Larger files are refused; the largest published network has 0.6 GB."""

OFFICIAL_LAYOUTS = ("net", "model", "params")
"""Where the authors' files keep the tensors: Gaussian noise; SIDD and SenseNoise; derain and DPDD."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_CONFIGS: dict[str, type[KBNetSConfig] | type[KBNetLConfig]] = {"kbnet-s": KBNetSConfig, "kbnet-l": KBNetLConfig}


def load_file(path: Path) -> Network:
    """A network in eval mode, float64 if any tensor of the file is and else float32, from our own or the authors' file.

    Raises:
        CheckpointError: no such file, damaged, hostile, or of another network; the message names the file.
    """
    config, tensors = read_file(path)
    try:
        with torch.device("meta"):
            network = build(config)
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: its settings contradict each other: {error}") from error
    expected = network.state_dict()
    if missing := sorted(expected.keys() ^ tensors.keys()):
        raise CheckpointError(f"{path}: tensors do not fit the network: {_some(missing)} missing or unexpected")
    if wrong := [key for key in expected if expected[key].shape != tensors[key].shape]:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors have a wrong shape; {key} wants {list(expected[key].shape)}, "
            f"got {list(tensors[key].shape)}"
        )
    if bad := [key for key, t in tensors.items() if t.dtype not in _DTYPES or not bool(torch.isfinite(t).all())]:
        raise CheckpointError(f"{path}: {_some(bad)} holds values that are not finite real numbers")
    # One dtype for all: a network of two cannot run.
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors.values()) else torch.float32
    network.load_state_dict({key: t.to(dtype) for key, t in tensors.items()}, assign=True)
    return network.requires_grad_(True).eval()


def read_file(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Settings and tensors of a weights file, under our names; shapes are not yet checked against each other.

    Raises:
        CheckpointError: no such file, damaged, hostile, or not a KBNet.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"expected a weights file, {path}: {error.strerror}") from error
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} has {size} bytes, over the limit of {MAX_FILE_BYTES}; is it a weights file?")
    if start[8:9] == b"{":  # eight bytes of header length, then JSON
        return _read_own(path)
    if start[:2] in (b"PK", b"\x80\x02"):  # a zip of torch.save, or its older plain pickle
        return _read_official(path)
    raise CheckpointError(f"expected a .safetensors file or one saved by torch, got {path}, which is neither")


def save_file(network: Network, path: Path, *, overwrite: bool = False, dtype: torch.dtype | None = None) -> None:
    """Write our own kind of file: safetensors, with the network's settings in the header.

    Args:
        network: whose weights are written.
        path: of the file.
        overwrite: whether it may replace a file.
        dtype: of the stored tensors, float16 or bfloat16 for a file of half the size; the network's own by default.
            They are widened when the file is read.

    Raises:
        InvalidInputError: a weight is beyond the range of `dtype`.
        OutputExistsError: the file is there and `overwrite` is not set.
        OutputError: it cannot be written.
    """
    tensors = {key: t.detach().to("cpu", dtype).contiguous() for key, t in network.state_dict().items()}
    if dtype and (overflowing := [key for key, t in tensors.items() if not bool(t.isfinite().all())]):
        raise InvalidInputError(f"expected finite weights in {dtype}, but {overflowing[0]} is beyond its range")
    settings = {"family": network.family, "settings": json.dumps(asdict(network.config))}
    files.write(serialize(tensors, metadata={"kbnet": "1", **settings}), path, overwrite=overwrite)


def save_official(network: Network, path: Path, layout: str, *, overwrite: bool = False) -> None:
    """Write a file that the authors' code reads: their names, under `net` (prefixed `module.`), `model` or `params`.

    Such a file holds tensors alone. A network whose settings cannot be told from them would read back as another one,
    and is not written.

    Raises:
        InvalidInputError: `layout` is none of the three, or the file would read back with other settings.
        OutputExistsError: the file is there and `overwrite` is not set.
        OutputError: it cannot be written.
    """
    if layout not in OFFICIAL_LAYOUTS:
        raise InvalidInputError(f"expected a layout among {', '.join(OFFICIAL_LAYOUTS)}, got {layout!r}")
    prefix = "module." if layout == "net" else ""
    tensors = to_official(network.family, {k: t.detach().cpu() for k, t in network.state_dict().items()})
    _check_told(network, tensors)
    buffer = io.BytesIO()
    # str(): a StrEnum would be pickled as itself, and the file could not be read back.
    torch.save({str(layout): {prefix + key: tensor for key, tensor in tensors.items()}}, buffer)
    files.write(buffer.getbuffer(), path, overwrite=overwrite)


def _check_told(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors under the authors' names from which other settings are told than the network's."""
    try:
        told = infer_config(network.family, from_official(network.family, tensors))
    except CheckpointError as error:
        why = f"its settings cannot be told from its tensors: {error}"
    else:
        wanted, found = asdict(network.config), asdict(told)
        wrong = [
            f"{name} {found[name]!r} instead of {value!r}" for name, value in wanted.items() if found[name] != value
        ]
        if not wrong:
            return
        why = f"from its tensors alone it would read back with {', '.join(wrong)}"
    raise InvalidInputError(f"the authors' kind of file does not do for this network: {why}; write kbnet's own kind")


def infer_config(family: str, tensors: Mapping[str, Tensor]) -> Config:
    """Settings told from the shapes of tensors under our names; the kernel size cannot be told and is taken as 3.

    Raises:
        CheckpointError: a tensor that tells a setting is missing or has an impossible shape.
    """
    try:
        return _infer_s(tensors) if family == "kbnet-s" else _infer_l(tensors)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:  # an InvalidInputError is a ValueError
        raise CheckpointError(f"the tensors are not those of a {family}: {_first_line(error)}") from error


def matching_presets(config: Config) -> list[str]:
    """Names of the presets with just these settings."""
    return [name for name, preset in PRESETS.items() if preset == config]


def _read_own(path: Path) -> tuple[Config, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("kbnet") != "1" or header.get("family") not in _CONFIGS:
                raise CheckpointError(
                    f"expected a kbnet weights file, got {path}, a .safetensors file of something else"
                )
            config = config_from(header["family"], json.loads(header.get("settings", "")))
            return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({_first_line(error)}); get it again") from error
    except (ValueError, RecursionError, TypeError) as error:  # so are an InvalidInputError and what json raises
        raise CheckpointError(f"{path}: the settings in its header are not valid: {_first_line(error)}") from error


def config_from(family: str, settings: Any) -> Config:
    """Settings as a file holds them, checked by name and type; `family` is "kbnet-s" or "kbnet-l".

    Raises:
        TypeError: they are not a table, or one is unknown or of the wrong type.
        InvalidInputError: one is out of range, or there is no such family.
    """
    if family not in _CONFIGS:
        raise InvalidInputError(f"expected a family among {', '.join(_CONFIGS)}, got {family!r:.40}")
    kind = _CONFIGS[family]
    if not isinstance(settings, dict):
        raise TypeError("expected a table of settings")
    defaults = {field.name: field.default for field in fields(kind)}
    for name, value in settings.items():
        want = type(defaults[name]) if name in defaults else None
        if isinstance(value, list) and want is tuple and all(type(v) is int for v in value):
            continue
        if want is None or not (type(value) is want or (want is float and type(value) is int)):
            raise TypeError(f"setting {name!r:.80} is unknown or of the wrong type")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    return kind(**values)


def _read_official(path: Path) -> tuple[Config, dict[str, Tensor]]:
    try:
        _refuse_packed(path)
        # an open file, since torch goes by a path's ending and not by what the file holds
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about the kind of file; what cannot be read is an error below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and was not opened, since it could run code"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise many kinds on a damaged file, struct.error among them
        raise CheckpointError(f"{path} is damaged or cut short ({_first_line(error)}); get it again") from error
    tensors = _tensors_in(content, path)
    family = next((name for name, key in FIRST_KEY.items() if key in tensors), None)
    if family is None:
        raise CheckpointError(f"expected the tensors of a KBNet in {path}, got {_some(sorted(tensors))}")
    try:
        renamed = from_official(family, tensors)
        return infer_config(family, renamed), renamed
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _refuse_packed(path: Path) -> None:
    """Refuse an archive that unpacks to more than its size; torch never compresses, so no good file does."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"expected a file saved by torch, got {path}, a compressed archive; unpack it first")


def _tensors_in(content: object, path: Path) -> dict[str, Tensor]:
    for layout in OFFICIAL_LAYOUTS:
        if isinstance(content, dict) and isinstance(content.get(layout), dict):
            content = content[layout]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"expected tensors under one of {', '.join(OFFICIAL_LAYOUTS)} in {path}, found none")
    if not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in content.items()):
        raise CheckpointError(f"expected only named tensors in {path}, found other things among them")
    if odd := [key for key, tensor in content.items() if not _is_plain(tensor)]:
        raise CheckpointError(f"expected tensors stored value by value in {path}; {_some(odd)} is not")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether each value has a place of its own: not sparse, on no other device, not one value seen as a billion."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _counts(tensors: Mapping[str, Tensor], stage: str) -> int:
    """Number of consecutive `stage.0`, `stage.1`, ... among the names."""
    numbers = {int(m[1]) for key in tensors if (m := re.match(rf"{re.escape(stage)}\.(\d{{1,4}})\.", key))}
    return next(i for i in range(len(numbers) + 1) if i not in numbers)


def _infer_s(tensors: Mapping[str, Tensor]) -> KBNetSConfig:
    width, channels = tensors["first.weight"].shape[:2]
    levels = _counts(tensors, "downsample")
    block = "encoder.0.0." if "encoder.0.0.kba.weight" in tensors else "middle.0."
    bases, block_width, taps = tensors[block + "kba.weight"].shape
    return KBNetSConfig(
        channels=channels,
        width=width,
        encoder_blocks=tuple(_counts(tensors, f"encoder.{i}") for i in range(levels)),
        middle_blocks=_counts(tensors, "middle"),
        decoder_blocks=tuple(_counts(tensors, f"decoder.{i}") for i in range(levels)),
        ffn_scale=tensors[block + "ffn_in.weight"].shape[0] / block_width,
        lightweight=tensors[block + "static_branch.1.weight"].shape[-1] == 3,
        bases=bases,
        group_channels=taps // 9,
    )


def _infer_l(tensors: Mapping[str, Tensor]) -> KBNetLConfig:
    width, channels = tensors["first.weight"].shape[:2]
    stages = ("encoder.0", "encoder.1", "encoder.2", "middle")
    counts = [_counts(tensors, stage) for stage in stages]
    heads = [tensors[f"{stage}.0.attention.temperature"].shape[0] for stage in stages]
    bases, hidden, taps = tensors["encoder.0.0.fusion.kba.weight"].shape
    return KBNetLConfig(
        channels=channels,
        width=width,
        blocks=(counts[0], counts[1], counts[2], counts[3]),
        refinement_blocks=_counts(tensors, "refinement"),
        heads=(heads[0], heads[1], heads[2], heads[3]),
        expansion=hidden / width,
        bias="encoder.0.0.fusion.out.bias" in tensors,
        bases=bases,
        group_channels=taps // 9,
    )


def _some(names: list[str]) -> str:
    return ", ".join(_printable(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: BaseException) -> str:
    return _printable((str(error).strip().splitlines() or [type(error).__name__])[0], 160)


def _printable(text: str, length: int = 80) -> str:
    """Text out of a file, made fit to stand in a message of one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])
