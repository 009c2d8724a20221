"""What a result depends on besides its image: the weights, and how the network is computed.

A resumed run compares this with the identity it was started with, so that one job never mixes results of different
weights or precisions.
"""

import hashlib
import json
import os
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbnet import __version__

if TYPE_CHECKING:
    from kbnet.inference.exported import ExportedNetwork
    from kbnet.inference.restorer import Restorer
    from kbnet.models import Network


def digest(source: Path | bytes) -> str:
    """SHA-256 of a file or of bytes, in hexadecimal."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(restorer: "Restorer") -> dict[str, Any]:
    """The identity of a Restorer as plain values; equal for two Restorers if their results may be mixed in one job.

    It holds the settings of `Restorer.describe` without the model's name, and

        weights            SHA-256 of the network's settings and tensors, or of an exported file
        instruction_set    of the native kernels and of PyTorch's own on this processor
        versions           of kbnet and of the runtime
        gray               the identity of the Restorer for gray images, or None
    """
    about = restorer.describe()
    about.pop("model")  # the name of the weights does not affect the result
    network, device = restorer.network, str(restorer.device)
    return about | {
        "weights": _weights(network),
        "device": _device_name(device) if device.startswith("cuda") else device,
        "instruction_set": instruction_set(),
        "versions": f"kbnet {__version__}, {about['runtime']} {_version(about['runtime'])}",
        "gray": None if restorer.gray is None else identity(restorer.gray),
    }


def instruction_set() -> str:
    """The instruction set of the native kernels ("none" without them) and of PyTorch."""
    import torch

    chosen = os.environ.get("KBNET_INSTRUCTION_SET") or _fastest()
    return f"{chosen}, torch {torch.backends.cpu.get_cpu_capability()}"


@cache
def _fastest() -> str:
    from kbnet.ops import native

    try:
        return native.instruction_sets()[0]
    except ImportError:
        return "none"


def _weights(network: "Network | ExportedNetwork") -> str:
    import torch

    if not isinstance(network, torch.nn.Module):
        return network.digest
    found = hashlib.sha256(json.dumps([network.family, asdict(network.config)], sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _device_name(device: str) -> str:
    import torch

    return f"cuda, {torch.cuda.get_device_name(device)}"


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
