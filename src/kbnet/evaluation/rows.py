"""Rows of results, one per sample: the evaluation loop and the summary."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kbnet.errors import KBNetError
from kbnet.evaluation.samples import Image, Sample, Target
from kbnet.evaluation.scores import Score

Measures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """The result for one sample.

    Attributes:
        name: name of the sample.
        photo: name of its image.
        groups: groups whose means include it.
        width, height: size of the image in pixels.
        input: metrics of the degraded image; empty if there is no clean image, or the input is the clean image.
        output: metrics of the restored image; empty if there is no clean image.
        seconds: wall time of the restoration.
        error: why there is no output; None on success.
        data_sha256: the sample's `digest`; "" in results files from before it was recorded.
    """

    name: str
    photo: str
    groups: tuple[str, ...]
    width: int = 0
    height: int = 0
    input: Measures = field(default_factory=dict)
    output: Measures = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    data_sha256: str = ""

    @property
    def gain(self) -> float | None:
        """First metric of the output minus that of the input; None if one is missing."""
        before, after = first(self.input), first(self.output)
        if before is None or after is None:
            return None
        return 0.0 if before == after else after - before  # both can be infinite

    @property
    def worse(self) -> bool:
        """Whether the output is further from the clean image than the input."""
        return self.gain is not None and self.gain < 0

    def as_json(self) -> dict[str, Any]:
        """Return plain values with rounded metrics. Infinity is the string "inf" and NaN is null, for JSON's sake."""
        if self.error is not None:
            return {"name": self.name, "photo": self.photo, "groups": list(self.groups), "error": self.error}
        return {
            "name": self.name,
            "photo": self.photo,
            "groups": list(self.groups),
            **({"data_sha256": self.data_sha256} if self.data_sha256 else {}),
            "width": self.width,
            "height": self.height,
            "input": plain(self.input),
            "output": plain(self.output),
            "worse": self.worse,
            "seconds": round(self.seconds, 4),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Row":
        """Create a row from `as_json` values; raises KeyError, TypeError or ValueError if they are invalid."""
        return cls(
            str(value["name"]),
            str(value["photo"]),
            tuple(map(str, value["groups"])),
            int(value.get("width", 0)),
            int(value.get("height", 0)),
            _measures(value.get("input", {})),
            _measures(value.get("output", {})),
            float(value.get("seconds", 0)),
            value.get("error"),
            str(value.get("data_sha256", "")),
        )


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images of a row, for saving and display."""

    input: Image
    output: Image
    target: Target | None


def run(
    samples: Iterable[Sample], restore: Callable[[Image], Image], score: Score, *, scored_input: bool = True
) -> Iterator[tuple[Row, Pictures | None]]:
    """Restore and score samples in order, and yield their rows. A failed sample yields a row with its error.

    Args:
        samples: samples of a benchmark.
        restore: takes and returns a float image [H,W] or [H,W,3] on a scale of [0,1].
        score: compares an image with the clean one.
        scored_input: whether to score the input too.
    """
    for sample in samples:
        pictures = None
        try:
            row, pictures = _one(sample, restore, score, scored_input=scored_input)
        except (KBNetError, OSError, MemoryError, RuntimeError) as error:
            reason = str(error) or type(error).__name__
            row = Row(sample.name, sample.photo, sample.groups, error=reason)
        yield row, pictures


def _one(
    sample: Sample, restore: Callable[[Image], Image], score: Score, *, scored_input: bool
) -> tuple[Row, Pictures]:
    digest = sample.digest()
    image, target = sample.load()
    height, width = image.shape[:2]
    # first, in case the restorer changes the image
    before = score(image, target) if scored_input and target is not None else {}
    started = time.perf_counter()
    output = restore(image)
    seconds = time.perf_counter() - started
    after = score(output, target) if target is not None else {}
    row = Row(sample.name, sample.photo, sample.groups, width, height, before, after, seconds, data_sha256=digest)
    return row, Pictures(image, output, target)


def summarise(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Summarise every group: number of images, means, lowest score, and how many are worse than their input.

    Groups are in the order of their first row, with groups of all images last. As in papers, means are plain means of
    the metrics of the images. Rows with an error are left out.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.error is None and row.output:
            for group in row.groups:
                groups.setdefault(group, []).append(row)
    summary = {}
    for group, members in sorted(groups.items(), key=lambda item: item[0].startswith("all")):
        lowest = min(members, key=lambda row: first(row.output) or 0.0)
        summary[group] = {
            "pictures": len(members),
            "input": plain(_mean([_rounded(row.input) for row in members])),
            "output": plain(_mean([_rounded(row.output) for row in members])),
            "lowest": {"photo": lowest.photo, **plain(lowest.output)},
            "worse": sum(row.worse for row in members),
        }
    return summary


def seconds_per_megapixel(rows: Iterable[Row]) -> float | None:
    """Return the time of all rows with an output divided by their pixels; None if there are none."""
    done = [row for row in rows if row.error is None]
    pixels = sum(row.width * row.height for row in done)
    return sum(row.seconds for row in done) / pixels * 1e6 if pixels else None


def first(measures: Measures) -> float | None:
    """Return the first metric, which decides; None if there are none."""
    return next(iter(measures.values()), None)


def plain(measures: Measures) -> dict[str, Any]:
    """Convert metrics for JSON: PSNR with 4 decimals, others with 6."""
    return {name: _number(value, _decimals(name)) for name, value in measures.items()}


def _rounded(measures: Measures) -> Measures:
    """Round metrics as `plain` does, so that means are the same whether rows were measured now or read from a file."""
    return {name: round(value, _decimals(name)) for name, value in measures.items()}


def _decimals(name: str) -> int:
    return 4 if name == "psnr" else 6


def label(measure: str) -> str:
    """Format the name of a metric for display.

    >>> label("psnr"), label("ssim range 2")
    ('PSNR', 'SSIM range 2')
    """
    first_word, *rest = measure.split(" ")
    return " ".join([first_word.upper(), *rest])


def _number(value: float, digits: int) -> float | str | None:
    if math.isnan(value):
        return None
    return round(value, digits) if math.isfinite(value) else str(value)


def _measures(value: dict[str, Any]) -> Measures:
    return {name: math.nan if number is None else float(number) for name, number in value.items()}


def _mean(all_measures: list[Measures]) -> Measures:
    names = list(dict.fromkeys(name for measures in all_measures for name in measures))
    return {name: float(np.mean([measures.get(name, math.nan) for measures in all_measures])) for name in names}
