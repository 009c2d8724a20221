"""Costs of networks, counted the same way for all: parameters, multiply-adds and activation memory.

Networks run on the meta device, where tensors have shapes but no values, so the results don't depend on the machine.
"""

import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kbnet.errors import InvalidInputError
from kbnet.evaluation.described import DESCRIBED
from kbnet.models import PRESETS
from kbnet.nn import KernelBasisAttention, build, cost_of
from kbnet.ops.reference import forward_by_kernels

MULTIPLE = 16  # all networks take sides that are multiples of it without padding


@dataclass(frozen=True)
class NetworkCost:
    """One row of the table, for one image of `height` x `width` pixels. MACs are multiply-adds; memory is for float32.

    Attributes:
        network: a preset, or the name of a peer.
        source: "kbnet", or the paper that describes the layers of a peer.
        height, width: size of the image in pixels.
        parameters: number of learned values.
        macs_convolutions: MACs of convolutions alone, which papers on this family publish.
        macs_kba: MACs of kernel basis attention: mixing N kernels, applying the mixture, and bias. Published numbers
            for KBNet miss them, because their counter doesn't see custom functions.
        macs_attention: MACs of the matrix products of transposed attention.
        macs_all: sum of the three.
        macs_per_pixel: `macs_all` per input pixel.
        activation_bytes: peak memory of activations in inference, layer by layer, without scratch memory inside
            operators. Compiled kernels run whole networks at once and take less.
        activation_bytes_by_kernels: the same if every pixel's kernel is stored, as in the authors' code; None for
            networks without kernel basis attention.
        training_bytes: memory that the forward pass of a training step saves for the backward pass.
        parameters_published, macs_published: values in the paper; None if it gives none, and for kbnet's own networks.
    """

    network: str
    source: str
    height: int
    width: int
    parameters: int
    macs_convolutions: int
    macs_kba: int
    macs_attention: int
    macs_all: int
    macs_per_pixel: float
    activation_bytes: int
    activation_bytes_by_kernels: int | None
    training_bytes: int
    parameters_published: int | None = None
    macs_published: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def network_costs(names: Iterable[str] = (), height: int = 256, width: int = 256) -> list[NetworkCost]:
    """Count the costs of networks, by name of a preset or peer; all of them if no names are given.

    Raises:
        InvalidInputError: there is no such network, or a side isn't a multiple of 16.

    Example:
        >>> row, = network_costs(["kbnet-l-derain"])
        >>> [round(macs / 1e9, 1) for macs in (row.macs_convolutions, row.macs_kba, row.macs_attention, row.macs_all)]
        [107.7, 88.6, 13.9, 210.2]
    """
    if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
        raise InvalidInputError(f"expected sides that are multiples of {MULTIPLE}, got {width} x {height}")
    names = list(names) or [*PRESETS, *DESCRIBED]
    if unknown := [name for name in names if name not in PRESETS and name not in DESCRIBED]:
        raise InvalidInputError(f"unknown network {unknown[0]}; expected one of {'; '.join([*PRESETS, *DESCRIBED])}")
    return [_row(name, height, width) for name in names]


def _row(name: str, height: int, width: int) -> NetworkCost:
    peer = DESCRIBED.get(name)
    with torch.device("meta"):
        network: nn.Module = peer.build() if peer else build(PRESETS[name])
        image = torch.empty(1, peer.channels if peer else PRESETS[name].channels, height, width)
    spent = cost_of(network, image)
    layer_by_layer, kept = activation_bytes(network, image), training_bytes(network, image)
    by_kernels = activation_bytes(store_kernels(network), image) if spent.kba else None
    return NetworkCost(
        network=name,
        source=peer.source if peer else "kbnet",
        height=height,
        width=width,
        parameters=spent.parameters,
        macs_convolutions=spent.convolutions,
        macs_kba=spent.kba,
        macs_attention=spent.attention,
        macs_all=spent.total,
        macs_per_pixel=spent.per_pixel,
        activation_bytes=layer_by_layer,
        activation_bytes_by_kernels=by_kernels,
        training_bytes=kept,
        parameters_published=_scaled(peer.parameters_published, 1e6) if peer else None,
        macs_published=_scaled(peer.gmacs_published, 1e9) if peer else None,
    )


def _scaled(value: float | None, unit: float) -> int | None:
    return None if value is None else round(value * unit)


def activation_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Return the peak memory in bytes of tensors computed by one call, without gradients, not counting the inputs."""
    with torch.no_grad(), _LiveBytes() as meter:
        network(*inputs)
    peak: int = meter.peak
    return peak


def training_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Return the bytes of computed tensors that are alive after the forward pass of a training step."""
    # A view of a parameter, such as a reshaped weight, isn't an activation.
    with torch.enable_grad(), _LiveBytes(network.parameters()) as meter:
        result = network(*inputs)
        kept: int = meter.live
    del result
    return kept


def store_kernels(network: nn.Module) -> nn.Module:
    """Change a network in place so that kernel basis attention stores every pixel's kernel, as in the authors' code."""
    for module in network.modules():
        if isinstance(module, KernelBasisAttention):
            module.forward = partial(_by_kernels, module)  # type: ignore[method-assign]
    return network


def _by_kernels(layer: KernelBasisAttention, x: Tensor, coefficients: Tensor) -> Tensor:
    return forward_by_kernels(x, coefficients, layer.weight.unflatten(2, layer.taps), layer.bias)


class _LiveBytes(TorchDispatchMode):
    """Tracks the memory of tensors that operators return, while they are alive. Shared memory counts once.

    Args:
        known: tensors whose memory isn't counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.peak: int = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in known:
            self._remember(tensor.untyped_storage(), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = (args, kwargs or {})
        for tensor in tree_leaves(arguments):  # an input of the network, or a parameter
            if isinstance(tensor, Tensor):
                self._remember(tensor.untyped_storage(), 0)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._remember(storage, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _remember(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self.live += size

        def forget(_: object) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
