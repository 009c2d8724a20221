"""From a recipe's table to the degradation that it means."""

import math
from collections.abc import Mapping
from typing import Any

from kbnet.data import LAYOUTS, BatchNoise, Degradation
from kbnet.degradations import DEGRADATIONS, create_degradation
from kbnet.suggesting import did_you_mean

PAIRS = "pairs"
"""The kind of data that is degraded already."""


def build_degradation(kind: str, fields: Mapping[str, Any]) -> Degradation | None:
    """The degradation of this kind with these fields; None for pairs.

    Raises:
        ValueError: no such kind, or the fields are not its own; an InvalidInputError where the degradation says so.
    """
    if kind == PAIRS:
        if unknown := fields.keys() - {"layout"}:
            raise ValueError(f"{PAIRS} have no field {', '.join(sorted(unknown))}")
        pairs_layout(fields)
        return None
    if kind == "gaussian" and fields.keys() <= {"sigma"}:
        return BatchNoise(_sigma(fields.get("sigma")))
    if kind not in DEGRADATIONS:
        known = sorted({*DEGRADATIONS, PAIRS})
        raise ValueError(f"kind wants one of {', '.join(known)}, got {kind!r}{did_you_mean(kind, known)}")
    return create_degradation(kind, **fields)


def pairs_layout(fields: Mapping[str, Any]) -> str:
    """The layout that a table of the kind "pairs" names.

    Raises:
        ValueError: it is no layout of pairs.
    """
    layout = fields.get("layout", "pairs")
    if layout not in LAYOUTS or layout == "photos":
        raise ValueError(f"layout wants one of {', '.join(sorted(LAYOUTS.keys() - {'photos'}))}, got {layout!r}")
    return str(layout)


def _sigma(value: Any) -> tuple[float, float]:
    numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
    if not numbers or len(value) != 2 or not all(math.isfinite(v) for v in value) or not 0 <= value[0] <= value[1]:
        raise ValueError(f"sigma wants [low, high], 0 <= low <= high on the scale of 255, got {value!r}")
    return float(value[0]), float(value[1])
