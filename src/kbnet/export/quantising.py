"""OpenVINO graphs with 8-bit convolutions, by NNCF's post-training quantization.

Activation ranges are calibrated on degraded photos, and the loss of quality is measured on others. A graph whose
loss against the float graph exceeds `ALLOWED_LOSS` is not written.
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
from kbnet.inference.runners.graphs import GraphFacts, Run
from kbnet.metrics import psnr, to_uint8

ALLOWED_LOSS = 0.1
"""Largest allowed loss of mean PSNR in dB, on photos not used for calibration."""

CROP = 128
"""Side in pixels of the crops for calibration and evaluation; a graph with a fixed size uses that size."""

LEAST_PHOTOS = 8
"""Minimum number of photos. Every fourth is for evaluation, the others for calibration."""

_PHOTOS = 192  # maximum number of photos to read
_CROPS = 48  # for calibration; twice as many made no difference
_JUDGED = 4  # crops per evaluation photo
_LEAST_INPUTS = (
    32  # input channels of a quantized convolution; with 16 the loss just exceeds the limit, for 10% less time
)

DEGRADED_BY: dict[str, Degradation] = {
    # Below sigma 5 the result is so close to the photo that PSNR measures rounding, not visible differences.
    "denoise": PhotoNoise(),
    "denoise-gaussian": GaussianNoise(sigma=(5, 55)),
    "derain": Rain(),
    "deblur": Blur(),
}
"""The degradation applied to clean photos, by task."""


@dataclass(frozen=True)
class Quality:
    """Mean PSNR in dB on the evaluation photos.

    Attributes:
        degraded: PSNR of the inputs.
        full: PSNR of the float graph's outputs.
        quantised: PSNR of the 8-bit graph's outputs.
        crops: number of crops.
    """

    degraded: float
    full: float
    quantised: float
    crops: int

    @property
    def loss(self) -> float:
        """Loss from 8 bits in dB; negative for a gain."""
        return self.full - self.quantised


class Photographs:
    """Crops of photos: of pairs in `input` and `target`, or of clean photos, degraded for the graph's task.

    Args:
        folder: folder with at least eight photos or pairs.
        facts: facts of the graph.

    Raises:
        InvalidInputError: there are too few readable photos that are large enough, or the photos are clean and the task
            has no known degradation.
    """

    def __init__(self, folder: Path, facts: GraphFacts) -> None:
        self._facts, self._side = facts, facts.tile or CROP
        paired = (folder / "input").is_dir() and (folder / "target").is_dir()
        items = find_items(folder, "pairs" if paired else "photos")
        items = items[:: -(-len(items) // _PHOTOS)]  # from the whole folder, which may be sorted by source
        self._degrade = None if paired else DEGRADED_BY.get(facts.task)
        if not paired and self._degrade is None:
            raise InvalidInputError(
                f"expected pairs in {folder}/input and {folder}/target, because the task {facts.task!r} has no known "
                f"degradation for clean photos; only {', '.join(DEGRADED_BY)} have one"
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
                f"expected at least {LEAST_PHOTOS} photos with at least {self._side} pixels per side in {folder}, "
                f"found {len(self._pairs)}{' pairs of equal size' if paired else ''}"
            )

    def calibration(self) -> list[NDArray[Any]]:
        """Return degraded crops for calibration, in the graph's input format."""
        generator = Generator().manual_seed(0)
        photos = [pair for number, pair in enumerate(self._pairs) if number % 4]
        step = max(1, len(photos) // _CROPS)
        return [
            self._input(self._crop(photos[(number * step) % len(photos)], generator)[0]) for number in range(_CROPS)
        ]

    def judge(self, full: Run, quantised: Run) -> Quality:
        """Compare two graphs on photos that `calibration` doesn't use."""
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
            raise InvalidInputError("the degradation changes none of these photos; use others")
        degraded_mean, full_mean, quantised_mean = (float(mean) for mean in finite.mean(0))
        return Quality(degraded_mean, full_mean, quantised_mean, len(finite))

    def _crop(self, pair: tuple[Pixels, Pixels | None], generator: Generator) -> tuple[torch.Tensor, Pixels]:
        """Return a degraded crop [C,S,S], nominally in [0,1], and its clean pixels [S,S,C] or [S,S]."""
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
    """Quantize the convolutions of an OpenVINO model that have 32 or more input channels to 8 bits.

    Depthwise convolutions, those with fewer channels, and all sums, products and averages stay in float. With all of
    them in 8 bits, the included denoiser lost 1.1 dB and took 80% of the time.

    Raises:
        MissingExtraError: NNCF isn't installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # disables NNCF's telemetry
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
    with contextlib.redirect_stdout(sys.stderr):  # for progress bars
        return nncf.quantize(model, data, subset_size=_CROPS, ignored_scope=scope)


def check(quality: Quality) -> None:
    """Check that the loss of quality is within `ALLOWED_LOSS`.

    Raises:
        ExportError: the loss is larger, or NaN.
    """
    if not quality.loss <= ALLOWED_LOSS:
        raise ExportError(
            f"8 bits cost {quality.loss:.2f} dB ({quality.quantised:.2f} instead of {quality.full:.2f} dB on "
            f"{quality.crops} crops; the limit is {ALLOWED_LOSS:g}), so nothing was written; calibrate on other "
            "photos, or export float32 and run it in bfloat16"
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
