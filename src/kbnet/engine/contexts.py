"""Contexts: where a network's averages over the image come from.

Two parts of KBNet average over the image: the channel branch (global average pooling, section 3.2 of the paper) and, in
KBNet-L, transposed attention. Everything else is local. A network therefore computes the same on tiles as on the full
image, except for these averages, which a context provides. `kbnet.nn.context` implements them for modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""Images [B,C,H,W] with values nominally in [0,1]."""

Means = Sequence[NDArray[Any]]
"""One float32 average per site, [C] or [1,...], in the order in which the network visits the sites."""


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
