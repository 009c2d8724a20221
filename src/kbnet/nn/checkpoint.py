"""Networks from weights files, and back.

`kbnet.models.weights` reads kbnet's own format. This module adds the authors': a pickle with the tensors under `net`,
`model` or `params`, whose keys may have the prefix `module.`, loaded with `weights_only=True`. Those files hold no
settings: they are inferred from the shapes of the tensors.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as serialize
from torch import Tensor

from kbnet import files
from kbnet.errors import CheckpointError, InvalidInputError
from kbnet.models.catalogue import resolve
from kbnet.models.config import Config, KBNetLConfig, KBNetSConfig
from kbnet.models.official_keys import FIRST_KEY, from_official, to_official
from kbnet.models.usage import Usage
from kbnet.models.weights import Weights, first_line, header_of, read_weights, some, widened
from kbnet.nn.networks import Network, build

OFFICIAL_LAYOUTS = ("net", "model", "params")
"""Keys under which the authors' files keep the tensors: Gaussian noise; SIDD and SenseNoise; deraining and DPDD."""


def load_model(name_or_path: str | Path) -> Network:
    """Load a network with its weights, in eval mode, on the CPU, in float32 (float64 if the file holds float64).

    Args:
        name_or_path: an included model, a task (its default model), a task's variant such as "denoise-gaussian-hq", a
            .safetensors file written by kbnet, one of the authors' checkpoints (.pth, any of their three layouts),
            or a repository of the Hugging Face Hub as "user/repo".

    Raises:
        UnknownModelError: there is no such model or file.
        CheckpointError: the file is damaged, unsafe to load, or belongs to another network.
        DownloadError: the repository can't be fetched.

    Example:
        >>> import kbnet
        >>> kbnet.load_model("denoise").family
        'kbnet-s'
    """
    return load_file(resolve(name_or_path))


def load_file(path: Path) -> Network:
    """Load a network in eval mode from a file in kbnet's or the authors' format.

    Its parameters are float32, or float64 if any tensor in the file is.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe to load, or belongs to another network; the message names
            the file.
    """
    return network_of(read_weights(path))


def network_of(weights: Weights) -> Network:
    """Build a network in eval mode with copies of these weights, in float32, or in float64 if any of them is."""
    with torch.device("meta"):
        network = build(weights.config)
    # One dtype for all tensors: a network with mixed dtypes can't run.
    dtype = np.float64 if any(array.dtype == np.float64 for array in weights.arrays.values()) else np.float32
    tensors = {name: torch.from_numpy(np.array(widened(array), dtype)) for name, array in weights.arrays.items()}
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(True).eval()


def weights_of(network: Network) -> Weights:
    """Return a network's settings and its current values; float32 and float64 ones on a CPU are not copied."""
    return Weights(network.config, {name: _array(t) for name, t in network.state_dict().items()})


def _array(tensor: Tensor) -> NDArray[np.generic]:
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        return plain.contiguous().view(torch.int16).numpy().view(np.uint16)
    if not plain.is_floating_point() or plain.itemsize < 2:
        return np.broadcast_to(np.False_, tuple(plain.shape))  # of no use: reading refuses its type
    array: NDArray[np.generic] = plain.numpy()
    return array


def save_file(
    network: Network,
    path: Path,
    *,
    usage: Usage | None = None,
    overwrite: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Save a network in kbnet's own format: safetensors with the network's settings in the header.

    Args:
        network: the network to save.
        path: path of the file to write.
        usage: task, context and window, for the header; the Restorer uses them.
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
    files.write(serialize(tensors, metadata=header_of(network.config, usage)), path, overwrite=overwrite)


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
    torch.save({str(layout): {prefix + key: tensor.contiguous() for key, tensor in tensors.items()}}, buffer)
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
        raise CheckpointError(f"the tensors don't belong to a {family}: {first_line(error)}") from error


def read_official(path: Path) -> Weights:
    """Read the settings and tensors of one of the authors' files, under kbnet's names.

    Raises:
        CheckpointError: the file is damaged, unsafe to load, or not a KBNet.
    """
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
        raise CheckpointError(f"{path} is damaged or truncated ({first_line(error)}); get a new copy") from error
    tensors = _tensors_in(content, path)
    family = next((name for name, key in FIRST_KEY.items() if key in tensors), None)
    if family is None:
        raise CheckpointError(f"{path} contains no KBNet; its tensors are {some(sorted(tensors))}")
    try:
        renamed = from_official(family, tensors)
        return Weights(infer_config(family, renamed), {name: _array(tensor) for name, tensor in renamed.items()})
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
            f"{path} contains sparse, expanded or non-CPU tensors: {some(odd)}; save dense CPU tensors"
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
