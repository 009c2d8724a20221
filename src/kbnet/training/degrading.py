"""Builds the degradation that a table in a recipe describes."""

import math
from collections.abc import Mapping
from typing import Any

from kbnet.data import LAYOUTS, BatchNoise, Degradation
from kbnet.degradations import DEGRADATIONS, create_degradation
from kbnet.suggesting import did_you_mean

PAIRS = "pairs"
"""The kind for data that is already degraded."""


def build_degradation(kind: str, fields: Mapping[str, Any]) -> Degradation | None:
    """Build the degradation of this kind from its fields. Returns None for pairs.

    Raises:
        ValueError: the kind is unknown, or a field is unknown or invalid (InvalidInputError if the degradation itself
            rejects it).
    """
    if kind == PAIRS:
        if unknown := fields.keys() - {"layout"}:
            raise ValueError(f"the kind {PAIRS} has no field {', '.join(sorted(unknown))}")
        pairs_layout(fields)
        return None
    if kind == "gaussian" and fields.keys() <= {"sigma"}:
        return BatchNoise(_sigma(fields.get("sigma")))
    if kind not in DEGRADATIONS:
        known = sorted({*DEGRADATIONS, PAIRS})
        raise ValueError(f"kind must be one of {', '.join(known)}; got {kind!r}{did_you_mean(kind, known)}")
    return create_degradation(kind, **fields)


def pairs_layout(fields: Mapping[str, Any]) -> str:
    """Return the layout in a table of the kind "pairs".

    Raises:
        ValueError: it isn't a layout of pairs.
    """
    layout = fields.get("layout", "pairs")
    if layout not in LAYOUTS or layout == "photos":
        raise ValueError(f"layout must be one of {', '.join(sorted(LAYOUTS.keys() - {'photos'}))}; got {layout!r}")
    return str(layout)


def _sigma(value: Any) -> tuple[float, float]:
    numbers = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
    if not numbers or len(value) != 2 or not all(math.isfinite(v) for v in value) or not 0 <= value[0] <= value[1]:
        raise ValueError(f"sigma must be [low, high] with 0 <= low <= high, on a scale of 255; got {value!r}")
    return float(value[0]), float(value[1])
