"""How much a restoration changed an image, so that a result that is hardly different can say so."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

UNCHANGED = 0.5 / 255
"""Mean absolute change below which a result is called hardly different, on the scale of [0,1]: half an 8-bit level."""

_SUGGESTIONS = {
    "denoise": "it may be clean already; for rain or blur, choose the task derain or deblur",
    "denoise-gaussian": "for noise of cameras, phones or JPEG files, choose the task denoise",
    "derain": "no rain was recognised; for noise, choose the task denoise",
    "deblur": "no blur was recognised that it can remove; for noise, choose the task denoise",
}


def mean_change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Mean absolute difference of two images of one shape and dtype, over all pixels and channels.

    Args:
        before, after: uint8, uint16, or float nominally in [0,1].

    Returns:
        The change on the scale of [0,1]: 1/255 is one 8-bit level.

    Raises:
        InvalidInputError: the two differ in shape or dtype.

    Example:
        >>> mean_change(np.zeros((2, 2), np.uint8), np.full((2, 2), 51, np.uint8))
        0.2
    """
    if before.shape != after.shape or before.dtype != after.dtype:
        raise InvalidInputError(
            f"expected two images of one shape and dtype, got {list(before.shape)} {before.dtype} and "
            f"{list(after.shape)} {after.dtype}"
        )
    if before.size == 0:
        return 0.0
    white = float(np.iinfo(before.dtype).max) if np.issubdtype(before.dtype, np.integer) else 1.0
    # Row by row: float copies of a whole photograph would take several times its memory.
    total = sum(
        float(np.abs(a.astype(np.float32) - b.astype(np.float32)).sum(dtype=np.float64))
        for a, b in zip(np.atleast_1d(before), np.atleast_1d(after), strict=True)
    )
    return total / before.size / white


def unchanged_note(change: float, task: str = "") -> str | None:
    """One line for people where `change` (see `mean_change`) is below `UNCHANGED`; None where it is not.

    Args:
        change: on the scale of [0,1].
        task: what the model restores; names what else to try.
    """
    if change >= UNCHANGED:
        return None
    suggestion = _SUGGESTIONS.get(task)
    return f"the result hardly differs from the input{': ' + suggestion if suggestion else ''}"
