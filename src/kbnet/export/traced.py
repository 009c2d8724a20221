"""torch.export programs: the network's own modules, traced, with plain convolutions in place of the operator."""

import copy
import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet import files
from kbnet.description import Layer
from kbnet.errors import InvalidInputError
from kbnet.export.saving import saving
from kbnet.inference.runners.graphs import Arrays, GraphFacts, Run
from kbnet.nn import KernelBasisAttention, Network
from kbnet.nn.conformity import departure

BASES_AT_ONCE = 8
"""Number of bases that one convolution of an exported graph applies, chosen with benchmarks/export.py. OpenVINO is
faster and takes less memory with one at a time (`write.py`), because reshaping is expensive there.
"""

METADATA = "kbnet.json"
"""Name of the metadata in the file; torch.export.load returns it in `extra_files`."""

_MOST = 4096  # largest side, in multiples of the network's


class PlainKernelBasisAttention(nn.Module):
    """Computes `y = sum_n a_n * (grouped_conv(x; W_n) + b_n)`, a few bases at a time."""

    def __init__(self, kba: KernelBasisAttention, at_once: int = BASES_AT_ONCE) -> None:
        super().__init__()
        group, self.kernel_size, _ = kba.taps
        n, c = kba.weight.shape[:2]
        self.group, self.groups, self.at_once = group, c // group, at_once
        # Outputs are ordered by (group, basis, channel in the group).
        grouped = kba.weight.detach().unflatten(2, kba.taps).unflatten(1, (self.groups, group))
        parts = (grouped[start : start + at_once] for start in range(0, n, at_once))
        self.weights = nn.ParameterList(part.transpose(0, 1).flatten(0, 2).contiguous() for part in parts)
        self.bias = nn.Parameter(kba.bias.detach().t()[:, :, None, None].contiguous())

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """x [B,C,H,W], coefficients [B,N,H,W] -> [B,C,H,W]."""
        y = F.conv2d(coefficients, self.bias)
        for number, weight in enumerate(self.weights):
            a = coefficients[:, number * self.at_once : (number + 1) * self.at_once]
            z = F.conv2d(x, weight, padding=self.kernel_size // 2, groups=self.groups)
            z = z.unflatten(1, (self.groups, a.shape[1], self.group))  # [B,C/G,n,G,H,W]
            y = y + (z * a[:, None, :, None]).sum(2).flatten(1, 2)
        return y


def _described(kba: KernelBasisAttention) -> Layer:
    """Describe the layer as its constructor creates it, with its own sizes."""
    bases, channels = kba.bias.shape
    parameters = {"weight": (bases, channels, math.prod(kba.taps)), "bias": (bases, channels)}
    return Layer("", "KernelBasisAttention", parameters=parameters, settings={"taps": kba.taps})


def save_traced(network: Network, path: Path, facts: GraphFacts) -> Run:
    """Write the program with its metadata, and return a function that runs it.

    The program takes float32 [1,C,H,W] with sides that are multiples of the network's `input_multiple`, or equal to
    `facts.tile`. It averages over its whole input and computes in `facts.dtype`.

    Raises:
        InvalidInputError: `facts` asks for a window, a shared context or uint8, or a layer of the operator was changed.
    """
    if facts.window or facts.pooled or facts.uint8:
        raise InvalidInputError(
            "torch.export programs average over the whole input and accept floats: use --window 0 without --context "
            "and --uint8, or export onnx or openvino"
        )
    plain = copy.deepcopy(network).requires_grad_(False)
    for name, module in list(plain.named_modules()):
        if isinstance(module, KernelBasisAttention):
            if reason := departure(module, (_described(module),)):
                raise InvalidInputError(
                    f"can't convert {name} to plain convolutions: {reason}; export an unmodified kernel basis attention"
                )
            parent, _, attribute = name.rpartition(".")
            setattr(plain.get_submodule(parent), attribute, PlainKernelBasisAttention(module))
    plain.requires_grad_(False).to(getattr(torch, facts.dtype))
    multiple = network.input_multiple
    side = facts.tile or 4 * multiple
    shapes = None
    if not facts.tile:
        height, width = (multiple * torch.export.Dim(name, min=2, max=_MOST) for name in ("h", "w"))
        shapes = ({2: height, 3: width}, None)
    example = torch.rand(1, network.config.channels, side, side + (0 if facts.tile else multiple))
    program = torch.export.export(plain, (example, None), dynamic_shapes=shapes)
    # To memory first: if the disk is full, torch's own file writer aborts the process.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(facts.to_strings())})
    with saving(path):
        files.write(buffer.getbuffer(), path)
    loaded = torch.export.load(path).module()

    def run(inputs: Arrays) -> list[NDArray[Any]]:
        return [loaded(torch.from_numpy(inputs["image"]), None).numpy()]

    return run
