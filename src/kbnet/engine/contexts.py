"""Where a network's averages over the image come from; `kbnet.nn.context` says what each means and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Means = Sequence[NDArray[np.float32]]
"""One average per site, [C] each, in the order in which the network visits them."""


@dataclass(frozen=True)
class FullFrame:
    """The image of the call, each image of a batch on its own."""


@dataclass(frozen=True)
class Local:
    """A window of `window` x `window` input pixels around each pixel."""

    window: int


@dataclass
class Gather:
    """All images of the batch together, which are crops of one image; without `halo` input pixels at each side.

    `means` is filled by the call.
    """

    halo: int = 0
    means: Means = field(default=(), init=False)


@dataclass(frozen=True)
class Shared:
    """The averages that a `Gather` kept, whatever the image of the call is."""

    means: Means


Context = FullFrame | Local | Gather | Shared
