"""Weights files: loading executes nothing in them, and checks them against the network before it allocates memory.

Two formats are supported: kbnet's own (safetensors with the network's settings in the header) and the authors' (a
pickle with the tensors under `net`, `model` or `params`, whose keys may have the prefix `module.`; loaded with
`weights_only=True`). The authors' files hold no settings: these are inferred from the shapes of the tensors.
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
"""Larger files are rejected. The largest published network takes 0.6 GB."""

OFFICIAL_LAYOUTS = ("net", "model", "params")
"""Keys under which the authors' files keep the tensors: Gaussian noise; SIDD and SenseNoise; deraining and DPDD."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_CONFIGS: dict[str, type[KBNetSConfig] | type[KBNetLConfig]] = {"kbnet-s": KBNetSConfig, "kbnet-l": KBNetLConfig}


def load_file(path: Path) -> Network:
    """Load a network in eval mode from a file in kbnet's or the authors' format.

    Its parameters are float32, or float64 if any tensor in the file is.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe to load, or belongs to another network; the message names
            the file.
    """
    config, tensors = read_file(path)
    try:
        with torch.device("meta"):
            network = build(config)
    except InvalidInputError as error:
        raise CheckpointError(f"{path}: invalid network settings: {error}") from error
    expected = network.state_dict()
    if missing := sorted(expected.keys() ^ tensors.keys()):
        raise CheckpointError(f"{path}: tensors don't match the network: missing or unexpected: {_some(missing)}")
    if wrong := [key for key in expected if expected[key].shape != tensors[key].shape]:
        key = wrong[0]
        raise CheckpointError(
            f"{path}: expected {key} of shape {list(expected[key].shape)}, got {list(tensors[key].shape)} "
            f"(shape mismatches: {len(wrong)})"
        )
    if bad := [key for key, t in tensors.items() if t.dtype not in _DTYPES or not bool(torch.isfinite(t).all())]:
        raise CheckpointError(f"{path}: not a finite floating-point tensor: {_some(bad)}")
    # One dtype for all tensors: a network with mixed dtypes can't run.
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors.values()) else torch.float32
    network.load_state_dict({key: t.to(dtype) for key, t in tensors.items()}, assign=True)
    return network.requires_grad_(True).eval()


def read_file(path: Path) -> tuple[Config, dict[str, Tensor]]:
    """Read the settings and tensors of a weights file, under kbnet's names. Doesn't check shapes against the settings.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe to load, or not a KBNet.
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
        return _read_own(path)
    if start[:2] in (b"PK", b"\x80\x02"):  # a zip of torch.save, or its older plain pickle
        return _read_official(path)
    raise CheckpointError(f"{path} is not a weights file: expected .safetensors, or a file written by torch.save")


def save_file(network: Network, path: Path, *, overwrite: bool = False, dtype: torch.dtype | None = None) -> None:
    """Save a network in kbnet's own format: safetensors with the network's settings in the header.

    Args:
        network: the network to save.
        path: path of the file to write.
        overwrite: whether to replace an existing file.
        dtype: dtype of the stored tensors; defaults to the network's. float16 and bfloat16 halve the size of the file,
            and loading converts them back to float32.

    Raises:
        InvalidInputError: a weight is out of the range of `dtype`.
        OutputExistsError: the file exists and `overwrite` is false.
        OutputError: the file can't be written.
    """
    tensors = {key: t.detach().to("cpu", dtype).contiguous() for key, t in network.state_dict().items()}
    if dtype and (overflowing := [key for key, t in tensors.items() if not bool(t.isfinite().all())]):
        raise InvalidInputError(f"{overflowing[0]} is out of the range of {dtype}; save with a wider dtype")
    settings = {"family": network.family, "settings": json.dumps(asdict(network.config))}
    files.write(serialize(tensors, metadata={"kbnet": "1", **settings}), path, overwrite=overwrite)


def save_official(network: Network, path: Path, layout: str, *, overwrite: bool = False) -> None:
    """Save a network in a format that the authors' code loads.

    Such a file holds only tensors. If a network's settings can't be inferred from them, the file would load as a
    different network, so nothing is written.

    Args:
        network: the network to save.
        path: path of the file to write.
        layout: key for the tensors, one of `OFFICIAL_LAYOUTS`; under "net" their names get the prefix `module.`.
        overwrite: whether to replace an existing file.

    Raises:
        InvalidInputError: `layout` isn't one of the three, or the file would load with other settings.
        OutputExistsError: the file exists and `overwrite` is false.
        OutputError: the file can't be written.
    """
    if layout not in OFFICIAL_LAYOUTS:
        raise InvalidInputError(f"expected a layout ({', '.join(OFFICIAL_LAYOUTS)}), got {layout!r}")
    prefix = "module." if layout == "net" else ""
    tensors = to_official(network.family, {k: t.detach().cpu() for k, t in network.state_dict().items()})
    _check_told(network, tensors)
    buffer = io.BytesIO()
    # str(): torch.save would pickle a StrEnum as such, and loading with weights_only would reject it.
    torch.save({str(layout): {prefix + key: tensor for key, tensor in tensors.items()}}, buffer)
    files.write(buffer.getbuffer(), path, overwrite=overwrite)


def _check_told(network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Raise InvalidInputError unless the network's settings can be inferred from its tensors alone."""
    try:
        told = infer_config(network.family, from_official(network.family, tensors))
    except CheckpointError as error:
        why = f"its settings can't be inferred from its tensors: {error}"
    else:
        wanted, found = asdict(network.config), asdict(told)
        wrong = [
            f"{name} {found[name]!r} instead of {value!r}" for name, value in wanted.items() if found[name] != value
        ]
        if not wrong:
            return
        why = f"it would load with {', '.join(wrong)}"
    raise InvalidInputError(f"the authors' format can't hold this network: {why}; save it as .safetensors")


def infer_config(family: str, tensors: Mapping[str, Tensor]) -> Config:
    """Infer a network's settings from the shapes of its tensors, under kbnet's names.

    The shapes don't determine `kernel_size`, which is assumed to be 3, nor `coefficient_limit`, which stays at its
    default.

    Raises:
        CheckpointError: a tensor that determines a setting is missing or has an impossible shape.
    """
    try:
        return _infer_s(tensors) if family == "kbnet-s" else _infer_l(tensors)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:  # an InvalidInputError is a ValueError
        raise CheckpointError(f"the tensors don't belong to a {family}: {_first_line(error)}") from error


def matching_presets(config: Config) -> list[str]:
    """Return the names of the presets with exactly these settings."""
    return [name for name, preset in PRESETS.items() if preset == config]


def _read_own(path: Path) -> tuple[Config, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("kbnet") != "1" or header.get("family") not in _CONFIGS:
                raise CheckpointError(
                    f"{path} is a .safetensors file that kbnet didn't write; use a file written by kbnet"
                )
            config = config_from(header["family"], json.loads(header.get("settings", "")))
            return config, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({_first_line(error)}); get a new copy") from error
    except (ValueError, RecursionError, TypeError) as error:  # InvalidInputError and JSON errors too
        raise CheckpointError(f"{path}: invalid network settings in the header: {_first_line(error)}") from error


def config_from(family: str, settings: Any) -> Config:
    """Build a configuration from the settings in a file.

    Args:
        family: "kbnet-s" or "kbnet-l".
        settings: what the file holds; names and types are checked.

    Raises:
        TypeError: `settings` isn't a dict, or a setting is unknown or has the wrong type.
        InvalidInputError: a setting is out of range, or the family is unknown.
    """
    if family not in _CONFIGS:
        raise InvalidInputError(f"expected the family {' or '.join(_CONFIGS)}, got {family!r:.40}")
    kind = _CONFIGS[family]
    if not isinstance(settings, dict):
        raise TypeError("expected the settings as a table")
    defaults = {field.name: field.default for field in fields(kind)}
    for name, value in settings.items():
        want = type(defaults[name]) if name in defaults else None
        if isinstance(value, list) and want is tuple and all(type(v) is int for v in value):
            continue
        if want is None or not (type(value) is want or (want is float and type(value) is int)):
            raise TypeError(f"the setting {name!r:.80} is unknown or has the wrong type")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    return kind(**values)


def _read_official(path: Path) -> tuple[Config, dict[str, Tensor]]:
    try:
        _refuse_packed(path)
        # Pass an open file: given a path, torch.load goes by its suffix instead of the contents.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about the format; unreadable files raise below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or contains more than tensors; loading it could run code, so kbnet doesn't open it"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # torch and zipfile raise many types for damaged files, such as struct.error
        raise CheckpointError(f"{path} is damaged or truncated ({_first_line(error)}); get a new copy") from error
    tensors = _tensors_in(content, path)
    family = next((name for name, key in FIRST_KEY.items() if key in tensors), None)
    if family is None:
        raise CheckpointError(f"{path} contains no KBNet; its tensors are {_some(sorted(tensors))}")
    try:
        renamed = from_official(family, tensors)
        return infer_config(family, renamed), renamed
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _refuse_packed(path: Path) -> None:
    """Reject archives that unpack to more than their size; torch.save never compresses."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{path} is a compressed archive, not a file written by torch.save; unpack it first")


def _tensors_in(content: object, path: Path) -> dict[str, Tensor]:
    for layout in OFFICIAL_LAYOUTS:
        if isinstance(content, dict) and isinstance(content.get(layout), dict):
            content = content[layout]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} contains no tensors under any of the keys {', '.join(OFFICIAL_LAYOUTS)}")
    if not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in content.items()):
        raise CheckpointError(f"{path} contains more than named tensors; save only the state dict")
    if odd := [key for key, tensor in content.items() if not _is_plain(tensor)]:
        raise CheckpointError(
            f"{path} contains sparse, expanded or non-CPU tensors: {_some(odd)}; save dense CPU tensors"
        )
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def _is_plain(tensor: Tensor) -> bool:
    """Whether a CPU tensor stores each of its values: not sparse, and not one value expanded to a billion."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _counts(tensors: Mapping[str, Tensor], stage: str) -> int:
    """Return how many of `stage.0`, `stage.1`, ... exist without a gap."""
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
    """Make text from a file safe for a one-line message."""
    return "".join(c if c.isprintable() else "?" for c in text[:length])
