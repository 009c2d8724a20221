"""Contexts: where a network's averages over the image come from. `kbnet.nn.context` explains them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Means = Sequence[NDArray[np.float32]]
"""One average per site, [C] float32 each, in the order in which the network visits the sites."""


@dataclass(frozen=True)
class FullFrame:
    """Averages over the input of this call, separately for each image of the batch."""


@dataclass(frozen=True)
class Local:
    """Averages over a window of `window` x `window` input pixels around each pixel."""

    window: int


@dataclass
class Gather:
    """Averages over all crops of one image in the batch together, and stores the averages.

    Attributes:
        halo: input pixels at each side of a crop that averages leave out.
        means: the averages; set by the call.
    """

    halo: int = 0
    means: Means = field(default=(), init=False)


@dataclass(frozen=True)
class Shared:
    """Uses the averages that a `Gather` stored, whatever the input of this call."""

    means: Means


Context = FullFrame | Local | Gather | Shared
