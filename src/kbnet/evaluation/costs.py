"""What networks cost, theirs and ours under one count: parameters, multiply-adds, memory of activations.

Nothing is computed: networks run on the meta device, where tensors have shapes and no values. So the figures are those
of the layers as they are written down, on any machine.
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
from kbnet.models import PRESETS, build, cost_of
from kbnet.nn import KernelBasisAttention
from kbnet.ops.reference import forward_by_kernels

MULTIPLE = 16  # sides that every network here takes without padding


@dataclass(frozen=True)
class NetworkCost:
    """One row of the table, for one image of `height` x `width`; MACs are multiply-adds, memory is that of float32.

    Attributes:
        network: a preset, or the name of a peer.
        source: "kbnet", or the paper of a peer, whose layers were laid out from what it says.
        parameters: learned values.
        macs_convolutions: of convolutions alone: what papers of this family publish.
        macs_kba: of kernel basis attention: mixing N kernels, applying the mixture, and bias. Published figures of
            KBNet leave it out, since their counter does not see a custom function.
        macs_attention: of the products of transposed attention.
        macs_all: the sum of the three.
        macs_per_pixel: the same, a pixel of the input.
        activation_bytes: the most that computed tensors take at once in inference, layer by layer; scratch memory
            inside operators is not seen. Compiled kernels run whole blocks as one and take less.
        activation_bytes_by_kernels: the same if every pixel's kernel is stored, as in the authors' code; None for a
            network without kernel basis attention.
        training_bytes: what the forward pass of a training step keeps for the backward pass.
        parameters_published, macs_published: what the paper says, where it does; None for this project's own.
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
        """As plain values."""
        return asdict(self)


def network_costs(names: Iterable[str] = (), height: int = 256, width: int = 256) -> list[NetworkCost]:
    """The table's rows: presets by name, peers by theirs; all of them without names.

    Raises:
        InvalidInputError: there is no such network, or a side is no multiple of 16.

    Example:
        >>> row, = network_costs(["kbnet-l-derain"])
        >>> [round(macs / 1e9, 1) for macs in (row.macs_convolutions, row.macs_kba, row.macs_attention, row.macs_all)]
        [107.7, 88.6, 13.9, 210.2]
    """
    if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
        raise InvalidInputError(f"expected sides that are multiples of {MULTIPLE}, got {width} x {height}")
    names = list(names) or [*PRESETS, *DESCRIBED]
    if unknown := [name for name in names if name not in PRESETS and name not in DESCRIBED]:
        raise InvalidInputError(f"expected networks among {'; '.join([*PRESETS, *DESCRIBED])}; got {unknown[0]}")
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
    """The most bytes that the tensors computed by one call take at once, without gradients and without the inputs."""
    with torch.no_grad(), _LiveBytes() as meter:
        network(*inputs)
    peak: int = meter.peak
    return peak


def training_bytes(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes of computed tensors that are alive when the forward pass of a training step has ended."""
    # A tensor that is a view of a parameter, as a reshaped weight, is no activation.
    with torch.enable_grad(), _LiveBytes(network.parameters()) as meter:
        result = network(*inputs)
        kept: int = meter.live
    del result
    return kept


def store_kernels(network: nn.Module) -> nn.Module:
    """Make every kernel basis attention of a network, in place, compute as published: each pixel's kernel is stored."""
    for module in network.modules():
        if isinstance(module, KernelBasisAttention):
            module.forward = partial(_by_kernels, module)  # type: ignore[method-assign]
    return network


def _by_kernels(layer: KernelBasisAttention, x: Tensor, coefficients: Tensor) -> Tensor:
    return forward_by_kernels(x, coefficients, layer.weight.unflatten(2, layer.taps), layer.bias)


class _LiveBytes(TorchDispatchMode):
    """Adds up the memory of what operators return, as long as it is referred to. Memory shared by tensors counts once.

    Args:
        known: tensors whose memory is not counted.
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
