"""What a result depends on besides its image: the weights, and how the network is computed.

A resumed run compares this with the identity it was started with, so that one job never mixes results of different
weights or precisions.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbnet import __version__
from kbnet.engine import native

if TYPE_CHECKING:
    from kbnet.inference.restorer import Restorer


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
        instruction_set    of the native kernels on this processor
        versions           of kbnet and of the runtime, with the instruction set of PyTorch's own kernels
        gray, raw          the identity of the Restorer for gray images and for camera raw files, or None
    """
    about = restorer.describe()
    about.pop("model")  # the name of the weights does not affect the result
    runner, device = restorer.runner, restorer.device
    return about | {
        "weights": runner.digest,
        "device": _device_name(device) if device.startswith("cuda") else device,
        "instruction_set": instruction_set(),
        "versions": f"kbnet {__version__}, {runner.runtime} {runner.version}".rstrip(),
        "gray": None if restorer.gray is None else identity(restorer.gray),
        "raw": None if restorer.raw is None else identity(restorer.raw),
    }


def instruction_set() -> str:
    """The instruction set of the native kernels; "none" without them."""
    try:
        return native.chosen_instruction_set()
    except ImportError:
        return os.environ.get("KBNET_INSTRUCTION_SET") or "none"


def _device_name(device: str) -> str:
    import torch

    return f"cuda, {torch.cuda.get_device_name(device)}"
