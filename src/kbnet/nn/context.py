"""What a network sees of the whole image: the statistics that tie distant pixels together.

Two parts of KBNet average over the image: the channel branch (global average pooling, section 3.2 of the paper) and, in
KBNet-L, transposed attention. Everything else is local. A network run on tiles therefore differs from the same network
run on the full frame only through these averages, and a `Context` passed to `forward` says where they come from:

    FullFrame    the input of this call (what the authors' code does)
    Gather       the batch is a sample of crops of one image: averaged over all of them together, and remembered
    Shared       the averages that a Gather remembered, whatever this call's input is
    Local        the channel branch averages over a window around each pixel (arXiv 2112.04491)

A context is asked at each averaging site in the fixed order in which the network visits them.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Features(Protocol):
    """What can be averaged over pixels, [B,C,H,W]: a tensor (`Computed`), or one that is never stored (`nn.fused`)."""

    @property
    def shape(self) -> Sequence[int]: ...

    def inside(self, halo: int) -> "Features":
        """Without `halo` pixels at each side."""

    def mean(self) -> Tensor:
        """Mean over pixels, [B,C,1,1]."""

    def cell_means(self, cell: int) -> Tensor:
        """Mean over cells of cell x cell pixels, smaller ones at the lower and right border, [B,C,h,w]."""


class Computed:
    """Features that lie in memory, [B,C,H,W]."""

    def __init__(self, u: Tensor) -> None:
        self.u = u

    @property
    def shape(self) -> Sequence[int]:
        return self.u.shape

    def inside(self, halo: int) -> "Computed":
        u = self.u
        return Computed(u[:, :, halo : u.shape[2] - halo, halo : u.shape[3] - halo])

    def mean(self) -> Tensor:
        return self.u.mean((2, 3), keepdim=True)

    def cell_means(self, cell: int) -> Tensor:
        return F.avg_pool2d(self.u, cell, ceil_mode=True, count_include_pad=False) if cell > 1 else self.u


class FullFrame:
    """Average over the input of the call itself, each image of the batch on its own."""

    def begin(self, height: int) -> None:
        """Called by the network at the start of a forward pass with the height of its (padded) input."""

    def grid(self, u: Features) -> tuple[Tensor, int]:
        """Means [B,C,h,w] over pixels, and the side in pixels of the cells that they stand for; [B,C,1,1] for all."""
        return self.share(u.inside(self.halo_at(u.shape[2])).mean()), 1

    def pool(self, u: Tensor) -> Tensor:
        """Mean over pixels: [B,C,H,W] -> [B,C,1,1] (or one value per pixel, [B,C,H,W], from `Local`)."""
        return expand(*self.grid(Computed(u)), u.shape[2], u.shape[3])

    def halo_at(self, height: int) -> int:
        """Pixels at each side of an input of that height that do not count in an average."""
        return 0

    def pixels(self, u: Tensor) -> Tensor:
        """The pixels of [B,C,H,W] that count in an average."""
        return Computed(u).inside(self.halo_at(u.shape[2])).u

    def share(self, mean: Tensor) -> Tensor:
        """Turn this call's average over pixels, [B,...], into the one to use, [B,...] or [1,...]."""
        return mean


class Gather(FullFrame):
    """The batch holds crops of one image; average over all of them, without a halo of `halo` input pixels per side."""

    def __init__(self, halo: int = 0) -> None:
        self.halo = halo
        self.height = 0
        self.means: list[Tensor] = []

    def begin(self, height: int) -> None:
        self.height = height
        self.means = []

    def halo_at(self, height: int) -> int:
        return self.halo * height // self.height

    def share(self, mean: Tensor) -> Tensor:
        mean = mean.mean(0, keepdim=True)
        self.means.append(mean)
        return mean


class Shared(FullFrame):
    """Use remembered averages, one per site in visiting order, each [1,...]."""

    def __init__(self, means: Sequence[Tensor]) -> None:
        self.means = means
        self.site = 0

    def begin(self, height: int) -> None:
        self.site = 0

    def grid(self, u: Features) -> tuple[Tensor, int]:
        return self.share(torch.empty(0)), 1

    def share(self, mean: Tensor) -> Tensor:
        stored = self.means[self.site]
        self.site += 1
        return stored


class Local(FullFrame):
    """Pool the channel branch over a neighbourhood of about `window` x `window` input pixels.

    The window shrinks with the resolution of the level. Averages come from sums along rows and columns, so the cost
    does not depend on the window (test-time local converter, arXiv 2112.04491). They are taken over cells of an eighth
    of the window, as a mean over pixels that far apart hardly differs, and interpolated between the cells' centres: a
    fraction of the time and memory of a window at every pixel. Transposed attention sees the whole input of the call.
    """

    CELLS = 8

    def __init__(self, window: int) -> None:
        self.window = window
        self.height = 0

    def begin(self, height: int) -> None:
        self.height = height

    def grid(self, u: Features) -> tuple[Tensor, int]:
        height, width = u.shape[2:]
        window = max(1, self.window * height // self.height)
        if window >= height and window >= width:
            return u.mean(), 1  # exactly, so that a patch of the training's size is seen as in training
        cell = max(1, window // self.CELLS)
        # An odd number of cells, so that the window is centred on its own.
        return sliding_mean(u.cell_means(cell), window // cell | 1), cell


def expand(means: Tensor, cell: int, height: int, width: int) -> Tensor:
    """One value per pixel, [B,C,height,width], interpolated between the centres of cells; [B,C,1,1] stays as it is."""
    if cell == 1 or means.shape[2:] == (1, 1):
        return means
    smooth = F.interpolate(means, scale_factor=float(cell), mode="bilinear", align_corners=False)
    return smooth[:, :, :height, :width]


def sliding_mean(u: Tensor, window: int) -> Tensor:
    """Mean over a window x window neighbourhood of each pixel, clipped to the image: [B,C,H,W] -> [B,C,H,W].

    Near a border the window is moved inwards, not cut, so every mean is over as many pixels (arXiv 2112.04491, the
    border handling of its released models); a window larger than the image gives the global mean, [B,C,1,1].
    """
    height, width = u.shape[2:]
    rows, cols = min(window, height), min(window, width)
    if rows == height and cols == width:
        return u.mean((2, 3), keepdim=True)
    # A running sum over thousands of pixels loses digits in float32, so it is kept in float64.
    for axis, size in ((2, rows), (3, cols)):
        total = F.pad(u.cumsum(axis, dtype=torch.float64), (1, 0, 0, 0) if axis == 3 else (0, 0, 1, 0))
        length = total.shape[axis]
        u = (total.narrow(axis, size, length - size) - total.narrow(axis, 0, length - size)).div(size).to(u.dtype)
    top, left = (rows - 1) // 2, (cols - 1) // 2
    return F.pad(u, (left, width - u.shape[3] - left, top, height - u.shape[2] - top), mode="replicate")
