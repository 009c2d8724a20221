"""Compares the outputs of an exported graph with those of the network."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kbnet.engine import contexts
from kbnet.errors import ExportError
from kbnet.inference.runners.graphs import ExportedNetwork, GraphFacts, Run
from kbnet.inference.tiles import reflect_pad
from kbnet.nn import FullFrame, Gather, Local, Network, Shared
from kbnet.nn.fused import layers_alone

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest allowed difference of values nominally in [0,1]. bfloat16 is compared with the network in float32."""

SIZES = ((48, 64), (37, 53), (9, 101))
"""Height and width of the compared images: multiples of 16, odd sides, and a side smaller than a window."""

MULTIPLES = ((48, 64), (64, 96), (112, 80))
"""The same for graphs that only take multiples of 16."""

_CROP, _HALO = 64, 8


def compare(network: Network, facts: GraphFacts, run: Run) -> float:
    """Return the largest difference between a graph and the network's modules, over several sizes and all contexts.

    The network runs layer by layer, because the compiled kernels would ignore the same changes to modules as the graph.

    Raises:
        ExportError: the difference exceeds `TOLERANCE`; the message names the size.
    """
    largest = 0.0
    with torch.inference_mode(), layers_alone():
        for what, found, expected in _pairs(network, facts, run):
            difference = float((found.double() - expected.double()).abs().max())
            if not difference <= TOLERANCE[facts.dtype]:  # also true for NaN
                raise ExportError(
                    f"the exported graph differs from PyTorch by {difference:.2g} for {what} (limit "
                    f"{TOLERANCE[facts.dtype]:g}), so nothing was written; please report this with the model's name"
                )
            largest = max(largest, difference)
    return largest


def _pairs(network: Network, facts: GraphFacts, run: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    channels = network.config.channels

    def images(count: int, height: int, width: int) -> Tensor:
        return torch.rand(count, channels, height, width, generator=generator)

    context = Local(facts.window) if facts.window else FullFrame()
    ours: contexts.Context = contexts.Local(facts.window) if facts.window else contexts.FullFrame()
    sizes = [(facts.tile, facts.tile)] if facts.tile else SIZES if facts.dtype == "float32" else MULTIPLES
    for height, width in sizes:
        image, what = images(1, height, width), f"{height} x {width}"
        padded = _padded(image)
        if facts.uint8:
            image = (image * 255).round().to(torch.uint8)
            expected = network(_padded(image / 255), context)[:, :, :height, :width].clamp(0, 1) * 255
            found = torch.from_numpy(np.array(run({"image": image[0].permute(1, 2, 0).contiguous().numpy()})[0]))
            # Rounding to integers can change values by half a level.
            off = (found.permute(2, 0, 1) - expected[0]).abs() - 0.5
            yield what, off.clamp_min(0) / 255, torch.zeros_like(off)
            continue
        exported = ExportedNetwork(facts, run)
        yield what, _run(exported, image, ours), network(padded, context)[:, :, :height, :width]
    if not facts.pooled:
        return
    crops, gather, theirs = images(3, _CROP, _CROP), contexts.Gather(_HALO), Gather(_HALO)
    yield "crops of one image", _run(exported, crops, gather), network(crops, theirs)
    for number, (mean, expected) in enumerate(zip(gather.means, theirs.means, strict=True)):
        yield f"average {number}", torch.from_numpy(mean), expected
    tile = images(1, 40, 56)
    shared = contexts.Shared([mean.numpy() for mean in theirs.means])
    yield "a tile with a shared context", _run(exported, tile, shared), network(tile, Shared(theirs.means))


def _run(exported: ExportedNetwork, image: Tensor, context: contexts.Context) -> Tensor:
    return torch.from_numpy(exported(image.numpy(), context))


def _padded(image: Tensor) -> Tensor:
    """Mirror the sides up to multiples of 8."""
    return torch.from_numpy(reflect_pad(image.numpy(), 8))
