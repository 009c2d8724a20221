"""OpenVINO graphs whose convolutions compute in 8 bits, by NNCF's post-training quantisation.

Ranges of activations are read off degraded photographs, and what the result loses is measured on others: a graph that
restores them more than `ALLOWED_LOSS` worse than the float graph is not written.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from kbnet.data import find_items, to_tensor
from kbnet.data.photos import Pixels, decode_all
from kbnet.degradations import Blur, Degradation, GaussianNoise, PhotoNoise, Rain
from kbnet.errors import ExportError, InvalidInputError, MissingExtraError
from kbnet.inference.exported import GraphFacts, Run
from kbnet.metrics import psnr, to_uint8

ALLOWED_LOSS = 0.1
"""dB of mean PSNR on photographs that were not calibrated on."""

CROP = 128
"""Side of the crops that ranges and losses are measured on, pixels; a graph of one size takes that size."""

LEAST_PHOTOS = 8
"""Every fourth is judged by, the others are calibrated on."""

_PHOTOS = 192  # read at most
_CROPS = 48  # calibrated on; twice as many changed nothing
_JUDGED = 4  # crops of each photo that is judged by
_LEAST_INPUTS = 32  # of a convolution; with 16 the loss was just above what is allowed, for a tenth less time

DEGRADED_BY: dict[str, Degradation] = {
    # below sigma 5 the result is so near the photo that PSNR counts rounding and not what anyone could see
    "denoise": PhotoNoise(),
    "denoise-gaussian": GaussianNoise(sigma=(5, 55)),
    "derain": Rain(),
    "deblur": Blur(),
}
"""What clean photographs are given to a network of each task with."""


@dataclass(frozen=True)
class Quality:
    """Mean PSNR in dB on the photographs that were judged by.

    Attributes:
        degraded: of what the graphs were given.
        full: of the float graph's results; quantised: of the graph's of 8 bits.
        crops: how many were compared.
    """

    degraded: float
    full: float
    quantised: float
    crops: int

    @property
    def loss(self) -> float:
        """What 8 bits cost, dB; negative for a gain."""
        return self.full - self.quantised


class Photographs:
    """Crops of a folder: of pairs in its `input` and `target`, or of clean photos, degraded as the task has it.

    Args:
        folder: at least eight photos, or pairs.
        facts: of the graph that they are for.

    Raises:
        InvalidInputError: too few that can be read and are large enough, or clean photos for a task that says nothing
            of their degradation.
    """

    def __init__(self, folder: Path, facts: GraphFacts) -> None:
        self._facts, self._side = facts, facts.tile or CROP
        paired = (folder / "input").is_dir() and (folder / "target").is_dir()
        items = find_items(folder, "pairs" if paired else "photos")
        items = items[:: -(-len(items) // _PHOTOS)]  # across the whole folder, which may be sorted by source
        self._degrade = None if paired else DEGRADED_BY.get(facts.task)
        if not paired and self._degrade is None:
            raise InvalidInputError(
                f"expected pairs in {folder}/input and {folder}/target, for nothing says how clean photos are degraded "
                f"for the task {facts.task!r}; it is known for {', '.join(DEGRADED_BY)}"
            )
        channels = facts.config().channels
        decoded = decode_all([path for item in items for path in (item.clean, item.degraded) if path], channels)
        pairs = [(decoded[item.clean], decoded[item.degraded] if item.degraded else None) for item in items]
        self._pairs: list[tuple[Pixels, Pixels | None]] = [
            (clean, degraded)
            for clean, degraded in pairs
            if clean is not None
            and min(clean.shape[:2]) >= self._side
            and (not paired or (degraded is not None and degraded.shape == clean.shape))
        ]
        if len(self._pairs) < LEAST_PHOTOS:
            raise InvalidInputError(
                f"expected at least {LEAST_PHOTOS} photographs of {self._side} pixels a side or more in {folder}, "
                f"found {len(self._pairs)}{' pairs of equal size' if paired else ''}"
            )

    def calibration(self) -> list[NDArray[Any]]:
        """Degraded crops, as the graph takes them."""
        generator = Generator().manual_seed(0)
        photos = [pair for number, pair in enumerate(self._pairs) if number % 4]
        step = max(1, len(photos) // _CROPS)
        return [
            self._input(self._crop(photos[(number * step) % len(photos)], generator)[0]) for number in range(_CROPS)
        ]

    def judge(self, full: Run, quantised: Run) -> Quality:
        """Compare two graphs on photographs that `calibration` leaves out."""
        generator = Generator().manual_seed(1)
        scores: list[tuple[float, float, float]] = []
        for pair in self._pairs[::4]:
            for _ in range(_JUDGED):
                degraded, clean = self._crop(pair, generator)
                image = self._input(degraded)
                restored = (self._pixels(run({"image": image})[0]) for run in (full, quantised))
                scores.append(tuple(psnr(one, clean) for one in (_rounded(degraded), *restored)))  # type: ignore[arg-type]
        finite = np.array([row for row in scores if np.isfinite(row).all()])
        if not len(finite):
            raise InvalidInputError("expected photographs that the degradation changes, found none")
        degraded_mean, full_mean, quantised_mean = (float(mean) for mean in finite.mean(0))
        return Quality(degraded_mean, full_mean, quantised_mean, len(finite))

    def _crop(self, pair: tuple[Pixels, Pixels | None], generator: Generator) -> tuple[torch.Tensor, Pixels]:
        """Degraded [C,S,S] in about [0,1], and the clean pixels [S,S,C] or [S,S]."""
        clean, degraded = pair
        height, width = clean.shape[:2]
        top, left = (int(torch.randint(size - self._side + 1, (1,), generator=generator)) for size in (height, width))
        window = (slice(top, top + self._side), slice(left, left + self._side))
        if degraded is not None:
            return to_tensor(degraded[window]), clean[window]
        assert self._degrade is not None
        return self._degrade(to_tensor(clean[window]), generator), clean[window]

    def _input(self, degraded: torch.Tensor) -> NDArray[Any]:
        if self._facts.uint8:
            return np.ascontiguousarray(to_uint8(degraded.permute(1, 2, 0).numpy()))
        return degraded[None].contiguous().numpy()

    def _pixels(self, result: NDArray[Any]) -> Pixels:
        if self._facts.uint8:
            return result[..., 0] if result.shape[-1] == 1 else result
        return _rounded(torch.from_numpy(np.array(result[0])))


def quantised(model: Any, photographs: Photographs) -> Any:
    """An OpenVINO model whose convolutions of 32 channels and more take and hold 8 bits.

    What stays float: depthwise convolutions, those of the first level and of the picture itself, and every sum, product
    and average. With all of them in 8 bits the shipped denoiser lost 1.1 dB and took four fifths of the time.

    Raises:
        MissingExtraError: NNCF is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would else send its maker a report of this call
    try:
        import nncf
    except ModuleNotFoundError:
        raise MissingExtraError("nncf", "int8") from None
    import logging

    nncf.set_log_level(logging.ERROR)
    scope = nncf.IgnoredScope(
        types=["Add", "Multiply", "MatMul", "ReduceSum", "Interpolate"], names=list(_left_float(model)), validate=False
    )
    data = nncf.Dataset(photographs.calibration(), lambda image: {"image": image})
    with contextlib.redirect_stdout(sys.stderr):  # where progress bars belong
        return nncf.quantize(model, data, subset_size=_CROPS, ignored_scope=scope)


def check(quality: Quality) -> None:
    """Refuse a graph that lost too much.

    Raises:
        ExportError: more than `ALLOWED_LOSS`, or not a number.
    """
    if not quality.loss <= ALLOWED_LOSS:
        raise ExportError(
            f"in 8 bits the graph restores {quality.loss:.2f} dB worse ({quality.quantised:.2f} instead of "
            f"{quality.full:.2f} dB on {quality.crops} crops), allowed {ALLOWED_LOSS:g}; nothing was written. "
            "Calibrate on other photographs, or leave the graph in float32 and compute it in bfloat16"
        )


def _left_float(model: Any) -> Iterator[str]:
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution"):
            continue
        shape = [dimension.get_length() for dimension in node.input(1).get_partial_shape()]
        if kind == "Convolution":  # [out, in, k, k]
            float_one = shape[1] < _LEAST_INPUTS
        else:  # [groups, out, in, k, k]
            float_one = shape[2] == 1 or shape[0] * shape[2] < _LEAST_INPUTS
        if float_one:
            yield node.get_friendly_name()


def _rounded(image: torch.Tensor) -> Pixels:
    pixels = to_uint8(image.permute(1, 2, 0).numpy())
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels
