"""The base class of all degradations: validates fields, and takes all randomness from one generator."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

import torch
from torch import Generator, Tensor

from kbnet.degradations.randomness import chance
from kbnet.errors import InvalidInputError

Range = tuple[float, float]
"""Lowest and highest value of a random parameter. In a recipe: a list of two numbers, or one number for both."""


def ranged(low: float, high: float, *, within: Range, whole: bool = False) -> Any:
    """Return a dataclass field of type Range with a default and the limits for its values."""
    return field(default=(low, high), metadata={"within": within, "whole": whole})


def share(default: float) -> Any:
    """Return a dataclass field for the share of calls, 0 to 1, in which something happens."""
    return field(default=default, metadata={"share": True})


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """A random degradation. Calling it degrades one image.

    Fields are ranges (uniform unless documented otherwise), shares of calls, or switches; each kind documents its own.
    A single number stands for a range with equal ends.

    Raises:
        InvalidInputError: on construction, if a range is reversed or exceeds its limits, or a share isn't in [0,1].
    """

    clean_share: float = share(0.0)
    """Share of calls that return the image unchanged, so that a network learns to leave clean photos alone."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """Degrade one image.

        Args:
            clean: float32 [C,H,W] in [0,1], with one channel (gray) or three (sRGB), of any size. It isn't modified.
            generator: source of all random numbers: the same state gives the same output.

        Returns:
            A new tensor of the same shape and dtype, quantized to the 256 levels of an 8-bit file, except for Gaussian
            noise, which is unclipped and unquantized as in papers.

        Raises:
            InvalidInputError: `clean` has the wrong shape or dtype, or is on another device than the generator.
        """
        check_image(clean)
        if clean.device != generator.device:
            raise InvalidInputError(f"expected an image on {generator.device} like the generator, got {clean.device}")
        if chance(self.clean_share, generator):
            return clean.clone()
        return self._degrade(clean, generator).contiguous()

    @property
    def margin(self) -> int:
        """Pixels around a patch that influence it. Borders are mirrored. For realistic borders, cut patches larger by
        this many pixels on each side, and crop the result.
        """
        return 0

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        raise NotImplementedError


def make(kind: type[Degradation], settings: dict[str, Any]) -> Degradation:
    """Create a degradation with some of its fields set.

    Raises:
        InvalidInputError: unknown field, or a value that is invalid for the field.
    """
    known = [name for name, one in kind.__dataclass_fields__.items() if one.init]
    if unknown := sorted(set(settings) - set(known)):
        raise InvalidInputError(f"{kind.__name__} has no field {unknown[0]!r}; its fields are {', '.join(known)}")
    return kind(**settings)


def check_fields(settings: Any) -> None:
    """Validate and normalize the `ranged` and `share` fields of a frozen dataclass.

    Raises:
        InvalidInputError: a range is reversed or exceeds its limits, or a share isn't in [0,1].
    """
    for one in fields(settings):
        value = getattr(settings, one.name)
        if "within" in one.metadata:
            checked: object = _check_range(one.name, value, one.metadata["within"], whole=one.metadata["whole"])
        elif "share" in one.metadata:
            checked = _check_share(one.name, value)
        else:
            continue
        object.__setattr__(settings, one.name, checked)


def check_image(image: Tensor) -> None:
    """Raise InvalidInputError unless `image` is float32 [C,H,W] with C = 1 or 3 and at least one pixel."""
    if image.dtype != torch.float32 or image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise InvalidInputError(
            f"expected a float32 image [C,H,W] with 1 or 3 channels, got {image.dtype} of shape {list(image.shape)}"
        )


def quantise(image: Tensor) -> Tensor:
    """Quantise to the values of an 8-bit file: clip to [0,1] and round to the nearest of 256 levels."""
    return image.clamp(0, 1).mul_(255).round_().div_(255)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_range(name: str, value: Any, within: Range, *, whole: bool) -> Range:
    ends = (value, value) if _number(value) else value
    if not isinstance(ends, tuple | list) or len(ends) != 2 or not all(map(_number, ends)):
        raise InvalidInputError(f"expected {name} to be a range of two numbers, got {value!r}")
    low, high = ends
    if not within[0] <= low <= high <= within[1]:
        raise InvalidInputError(f"expected {name} with {within[0]:g} <= low <= high <= {within[1]:g}, got {value!r}")
    if whole and (low != int(low) or high != int(high)):
        raise InvalidInputError(f"expected whole numbers in {name}, got {value!r}")
    return (int(low), int(high)) if whole else (float(low), float(high))


def _check_share(name: str, value: Any) -> float:
    if not _number(value) or not 0 <= value <= 1:
        raise InvalidInputError(f"expected {name} to be a share from 0 to 1, got {value!r}")
    return float(value)
