"""Inspects one block of a network at work on an image: bases, coefficients, effective kernels and branches.

`kbnet.evaluation.figures` draws them.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from kbnet.errors import InvalidInputError
from kbnet.nn import FullFrame, KBBlockL, KBBlockS, Network
from kbnet.ops.reference import pixel_kernels

Pixel = tuple[int, int]
"""Column from the left and row from the top."""


@dataclass(frozen=True)
class BlockView:
    """One block at work on one image. Maps [..,h,w] are at the block's resolution.

    Attributes:
        name: name of the block, such as "encoder.0.1".
        stride: image pixels per pixel of the block, in each direction.
        output: output of the network, [channels,H,W].
        bases, biases: W [N,C,G,k,k] and b [N,C].
        coefficients: a, [N,h,w].
        features: the operator's input x, [C,h,w].
        filtered: the operator's output y, [C,h,w].
        adaptive, static: the pixel-adaptive and the spatially invariant branch, [C,h,w].
        channel: the channel branch, [C,1,1], or [C,h,w] with a local context.
        product: the product of the three branches, [C,h,w].
    """

    name: str
    stride: int
    output: Tensor
    bases: Tensor
    biases: Tensor
    coefficients: Tensor
    features: Tensor
    filtered: Tensor
    adaptive: Tensor
    static: Tensor
    channel: Tensor
    product: Tensor

    def at(self, pixel: Pixel) -> Pixel:
        """Return the block's pixel that contains a pixel of the image."""
        return pixel[0] // self.stride, pixel[1] // self.stride

    def effective_kernel(self, pixel: Pixel) -> tuple[Tensor, Tensor]:
        """Return the kernel [C,G,k,k] and the bias [C] of a pixel of the block: sum_n a_n (W_n, b_n)."""
        column, row = pixel
        kernels, biases = pixel_kernels(self.coefficients[:, row, column][None], self.bases, self.biases)
        return kernels[0], biases[0]

    def strongest_group(self) -> int:
        """Return the one of the C/G groups whose kernels have the largest variance over the pixels.

        Computed from the covariance of the coefficients, without mixing kernels.
        """
        bases = len(self.coefficients)
        spread = torch.cov(self.coefficients.flatten(1).double()).reshape(bases, bases)  # one basis: a scalar
        group_channels = self.bases.shape[2]
        per_channel = self.bases.double().flatten(2)  # [N,C,G*k*k]
        variance = torch.einsum("nm,nct,mct->c", spread, per_channel, per_channel)
        return int(variance.unflatten(0, (-1, group_channels)).sum(1).argmax())


def block_names(network: Network) -> list[str]:
    """Return the names of a network's blocks in the order of the forward pass."""
    blocks = [name for name, module in network.named_modules() if isinstance(module, (KBBlockS, KBBlockL))]
    order = ("encoder", "middle", "decoder", "refinement")
    return sorted(blocks, key=lambda name: (order.index(name.split(".")[0]), *map(int, name.split(".")[1:])))


def default_block(network: Network) -> str:
    """Return the last block, at the image's own resolution, whose coefficients follow the content of the image."""
    return block_names(network)[-1]


def inspect_block(
    network: Network, image: Tensor, block: str | None = None, context: FullFrame | None = None
) -> BlockView:
    """Run a network layer by layer on an image, and record what one block computes.

    Args:
        network: a network in eval mode.
        image: [channels,H,W] in [0,1], with sides that the network takes (KBNet-L: multiples of 8).
        block: one of `block_names`; None for `default_block`.
        context: where averages over the image come from; defaults to the image.

    Raises:
        InvalidInputError: the network has no such block, or doesn't take the image.
    """
    block = default_block(network) if block is None else block
    names = block_names(network)
    if block not in names:
        raise InvalidInputError(f"expected a block, one of {', '.join(names)}; got {block!r}")
    module = network.get_submodule(block)
    fusion: Any = module.fusion if isinstance(module, KBBlockL) else module
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        # The hooks also keep this block from running as one compiled call, which exposes no branches.
        for part in ("kba", "static_branch", "channel_branch"):
            stack.enter_context(_Recorded(fusion.get_submodule(part), part, seen))
        stack.enter_context(torch.inference_mode())
        output = network(image[None], context or FullFrame())
    kba = fusion.kba
    static = F.gelu(seen["static_branch"]) if isinstance(module, KBBlockL) else seen["static_branch"]
    features, coefficients, filtered = seen["kba input 0"], seen["kba input 1"], seen["kba"]
    adaptive = filtered * fusion.kba_scale.detach() + features
    multiple = network.input_multiple
    return BlockView(
        name=block,
        stride=(image.shape[2] + -image.shape[2] % multiple) // features.shape[3],
        output=output[0],
        bases=kba.weight.detach().unflatten(2, kba.taps),
        biases=kba.bias.detach(),
        coefficients=coefficients[0],
        features=features[0],
        filtered=filtered[0],
        adaptive=adaptive[0],
        static=static[0],
        channel=seen["channel_branch"][0],
        product=(adaptive * static * seen["channel_branch"])[0],
    )


class _Recorded:
    """Records a module's inputs and output under its name inside the context manager."""

    def __init__(self, module: nn.Module, name: str, seen: dict[str, Tensor]) -> None:
        self._module, self._name, self._seen = module, name, seen

    def __enter__(self) -> None:
        self._handle = self._module.register_forward_hook(self._keep)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._seen[self._name] = output
        for number, value in enumerate(inputs):
            if isinstance(value, Tensor):
                self._seen[f"{self._name} input {number}"] = value


def typical_pixels(gray: NDArray[np.floating], margin: int = 12) -> dict[str, Pixel]:
    """Find a pixel on an edge, one in a flat area and one in a texture, by the structure tensor.

    Let l1 >= l2 be the eigenvalues of the structure tensor in a window around each pixel. A texture has the largest l2
    (gradients in both directions), and a flat area the smallest l1. An edge has gradients in one direction in a small
    window, and few others in a large one.

    Args:
        gray: [H,W] in [0,1].
        margin: distance from the border in pixels to leave out, if the image is large enough.

    Returns:
        A pixel for each of "edge", "flat" and "texture"; different ones if the image has enough pixels.
    """
    image = torch.from_numpy(np.ascontiguousarray(gray, dtype=np.float32))[None, None]
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    near, wide = ((_eigenvalues(across, down, radius)) for radius in (1, 4))
    # Areas clipped to black or white are flat because of the exposure, not the scene.
    clipped = _smooth(((image <= 1 / 255) | (image >= 254 / 255)).float(), 4)
    scores = {"edge": near[0] - 3 * near[1] - sum(wide), "texture": wide[1], "flat": -wide[0] - clipped}
    height, width = gray.shape
    y, x = (min(margin, (side - 1) // 2) for side in (height, width))
    found: dict[str, Pixel] = {}
    for kind, score in scores.items():
        inner = score[0, 0, y : height - y, x : width - x].clone()
        for column, row in found.values():
            inner[row - y, column - x] = -torch.inf
        row, column = divmod(int(inner.argmax()), inner.shape[1])
        found[kind] = (column + x, row + y)
    return {kind: found[kind] for kind in ("edge", "flat", "texture")}


def _eigenvalues(across: Tensor, down: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of the structure tensor, the larger one first."""
    xx, xy, yy = (_smooth(product, radius) for product in (across * across, across * down, down * down))
    middle, distance = (xx + yy) / 2, ((xx - yy) ** 2 / 4 + xy**2).sqrt()
    return middle + distance, (middle - distance).clamp_min(0)


def _smooth(image: Tensor, radius: int) -> Tensor:
    """Approximate a Gaussian window by three box filters."""
    for _ in range(3):
        image = F.avg_pool2d(F.pad(image, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)
    return image


def check_pixels(pixels: Sequence[Pixel], width: int, height: int) -> None:
    """Check that pixels are inside an image.

    Raises:
        InvalidInputError: a pixel is outside.
    """
    for x, y in pixels:
        if not (0 <= x < width and 0 <= y < height):
            raise InvalidInputError(f"expected a pixel x,y inside the image of {width} x {height}, got {x},{y}")
