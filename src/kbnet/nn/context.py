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

import torch
from torch import Tensor
from torch.nn import functional as F


class FullFrame:
    """Average over the input of the call itself, each image of the batch on its own."""

    def begin(self, height: int) -> None:
        """Called by the network at the start of a forward pass with the height of its (padded) input."""

    def pool(self, u: Tensor) -> Tensor:
        """Mean over pixels: [B,C,H,W] -> [B,C,1,1] (or one value per pixel, [B,C,H,W], from `Local`)."""
        return self.share(self.pixels(u).mean((2, 3), keepdim=True))

    def pixels(self, u: Tensor) -> Tensor:
        """The pixels of [B,C,H,W] that count in an average."""
        return u

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

    def pixels(self, u: Tensor) -> Tensor:
        halo = self.halo * u.shape[2] // self.height
        return u[:, :, halo : u.shape[2] - halo, halo : u.shape[3] - halo] if halo else u

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

    def pool(self, u: Tensor) -> Tensor:
        return self.share(u)

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

    def pool(self, u: Tensor) -> Tensor:
        height, width = u.shape[2:]
        window = max(1, self.window * height // self.height)
        if (
            window >= height and window >= width
        ):  # exactly, so that a patch of the training's size is seen as in training
            return u.mean((2, 3), keepdim=True)
        cell = max(1, window // self.CELLS)
        cells = F.avg_pool2d(u, cell, ceil_mode=True, count_include_pad=False) if cell > 1 else u
        # An odd number of cells, so that the window is centred on its own.
        means = sliding_mean(cells, window // cell | 1)
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
