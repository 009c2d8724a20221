"""Contexts: where a network's averages over the image come from.

Two parts of KBNet average over the image: the channel branch (global average pooling, section 3.2 of the paper) and, in
KBNet-L, transposed attention. Everything else is local. A network therefore computes the same on tiles as on the full
image, except for these averages. The context passed to `forward` provides them:

    FullFrame    averages over the input of this call, as in the authors' code
    Gather       averages over a batch of crops of one image, all of them together, and stores the averages
    Shared       uses the averages that a Gather stored, whatever the input of this call
    Local        averages over a window around each pixel in the channel branch (arXiv 2112.04491)

The network queries its context at each averaging site, always in the same order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def inside(u: Tensor, halo: int) -> Tensor:
    """Crop `halo` pixels from each side of features [B,C,H,W]."""
    return u[:, :, halo : u.shape[2] - halo, halo : u.shape[3] - halo]


class FullFrame:
    """Averages over the input of this call, separately for each image of the batch."""

    def begin(self, height: int) -> None:
        """Start a forward pass. The network calls this with the height of its padded input in pixels."""

    def grid(self, u: Tensor) -> tuple[Tensor, int]:
        """Return means over cells of features [B,C,H,W]: [B,C,h,w] and the side of a cell in pixels.

        [B,C,1,1] covers the whole image.
        """
        return self.share(self.pixels(u).mean((2, 3), keepdim=True)), 1

    def pool(self, u: Tensor) -> Tensor:
        """Return the mean over pixels, [B,C,H,W] -> [B,C,1,1] (`Local` returns one value per pixel, [B,C,H,W])."""
        return expand(*self.grid(u), u.shape[2], u.shape[3])

    def halo_at(self, height: int) -> int:
        """Return how many pixels at each side averages leave out, for features of this height."""
        return 0

    def pixels(self, u: Tensor) -> Tensor:
        """Crop features [B,C,H,W] to the pixels that averages include."""
        return inside(u, self.halo_at(u.shape[2]))

    def share(self, mean: Tensor) -> Tensor:
        """Take this call's average [B,...] and return the one to use, [B,...] or [1,...]."""
        return mean


class Gather(FullFrame):
    """Averages over all crops of one image in the batch together, and stores the averages in `means`.

    Args:
        halo: input pixels at each side of a crop that averages leave out.
    """

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
    """Uses stored averages.

    Args:
        means: one average per site, [1,...] each, in the order in which the network visits the sites; the `means` of a
            `Gather`.
    """

    def __init__(self, means: Sequence[Tensor]) -> None:
        self.means = means
        self.site = 0

    def begin(self, height: int) -> None:
        self.site = 0

    def grid(self, u: Tensor) -> tuple[Tensor, int]:
        return self.share(torch.empty(0)), 1

    def share(self, mean: Tensor) -> Tensor:
        stored = self.means[self.site]
        self.site += 1
        return stored


class Local(FullFrame):
    """Pools the channel branch over a window of about `window` x `window` input pixels (arXiv 2112.04491).

    The window scales with the resolution of the level. Running sums along rows and columns make the cost independent of
    the window, as in the test-time local converter. Averages are computed on cells of an eighth of the window and
    interpolated bilinearly between their centres. They hardly differ from averages at every pixel, and take a fraction
    of the time and memory. Transposed attention uses the whole input of the call.

    Args:
        window: side of the window in input pixels.
    """

    CELLS = 8

    def __init__(self, window: int) -> None:
        self.window = window
        self.height = 0

    def begin(self, height: int) -> None:
        self.height = height

    def grid(self, u: Tensor) -> tuple[Tensor, int]:
        height, width = u.shape[2:]
        window = max(1, self.window * height // self.height)
        if window >= height and window >= width:
            # Exact: a patch of the training size gets the average that it got in training.
            return u.mean((2, 3), keepdim=True), 1
        cell = max(1, window // self.CELLS)
        # An odd number of cells centres the window.
        return sliding_mean(_cell_means(u, cell), window // cell | 1), cell


def _cell_means(u: Tensor, cell: int) -> Tensor:
    """Average over `cell` x `cell` pixels, [B,C,H,W] -> [B,C,h,w]; cells at the bottom and right can be smaller."""
    return F.avg_pool2d(u, cell, ceil_mode=True, count_include_pad=False) if cell > 1 else u


def expand(means: Tensor, cell: int, height: int, width: int) -> Tensor:
    """Interpolate means between the centres of cells to [B,C,height,width]; [B,C,1,1] is returned unchanged."""
    if cell == 1 or means.shape[2:] == (1, 1):
        return means
    smooth = F.interpolate(means, scale_factor=float(cell), mode="bilinear", align_corners=False)
    return smooth[:, :, :height, :width]


def sliding_mean(u: Tensor, window: int) -> Tensor:
    """Average over a `window` x `window` neighbourhood of each pixel, [B,C,H,W] -> [B,C,H,W].

    Near a border, the window is shifted inwards instead of cut, so that every mean covers the same number of pixels (as
    in the released models of arXiv 2112.04491). A window larger than the image gives the global mean, [B,C,1,1].
    """
    height, width = u.shape[2:]
    rows, cols = min(window, height), min(window, width)
    if rows == height and cols == width:
        return u.mean((2, 3), keepdim=True)
    # In float64: a running sum over thousands of pixels loses precision in float32.
    for axis, size in ((2, rows), (3, cols)):
        total = F.pad(u.cumsum(axis, dtype=torch.float64), (1, 0, 0, 0) if axis == 3 else (0, 0, 1, 0))
        length = total.shape[axis]
        u = (total.narrow(axis, size, length - size) - total.narrow(axis, 0, length - size)).div(size).to(u.dtype)
    top, left = (rows - 1) // 2, (cols - 1) // 2
    return F.pad(u, (left, width - u.shape[3] - left, top, height - u.shape[2] - top), mode="replicate")
