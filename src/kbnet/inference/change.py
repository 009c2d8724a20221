"""How much a restoration changed an image, so that users learn when a result hardly differs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError

UNCHANGED = 0.5 / 255
"""Mean absolute change, on the scale of [0,1], below which a result hardly differs from its input: half an 8-bit level.
"""

_SUGGESTIONS = {
    "denoise": "the photo may already be clean; for rain or blur, choose the task derain or deblur",
    "denoise-gaussian": "for camera, phone or JPEG noise, choose the task denoise",
    "derain": "no rain was found; for noise, choose the task denoise",
    "deblur": "no removable blur was found; for noise, choose the task denoise",
}


def mean_change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Mean absolute difference of two images of the same shape and dtype, over all pixels and channels.

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
            f"expected two images of the same shape and dtype, got {list(before.shape)} {before.dtype} and "
            f"{list(after.shape)} {after.dtype}"
        )
    if before.size == 0:
        return 0.0
    white = float(np.iinfo(before.dtype).max) if np.issubdtype(before.dtype, np.integer) else 1.0
    # Row by row: float copies of the whole image would take several times its memory.
    total = sum(
        float(np.abs(a.astype(np.float32) - b.astype(np.float32)).sum(dtype=np.float64))
        for a, b in zip(np.atleast_1d(before), np.atleast_1d(after), strict=True)
    )
    return total / before.size / white


def unchanged_note(change: float, task: str = "") -> str | None:
    """A note for the user if `change` (see `mean_change`) is below `UNCHANGED`, else None.

    Args:
        change: on the scale of [0,1].
        task: the model's task; decides which alternative the note suggests.
    """
    if change >= UNCHANGED:
        return None
    suggestion = _SUGGESTIONS.get(task)
    return f"the result hardly differs from the input{': ' + suggestion if suggestion else ''}"
