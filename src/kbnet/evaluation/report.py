"""A report as one HTML page that needs nothing else: all rows, and the pictures that matter most beside each other."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from kbnet import files
from kbnet.errors import MissingExtraError
from kbnet.evaluation.rows import Pictures, Row, first, label
from kbnet.evaluation.samples import Image, Sample
from kbnet.imaging import Photo, encode, to_depth
from kbnet.metrics import to_uint8

LOWEST = 10
"""Pictures of the lowest score that are shown, the worst first."""

FLAGGED = 30
"""Pictures shown among those that got worse than their input; the table marks all of them."""

_QUALITY = 92
_LARGE, _LARGE_QUALITY = 1_000_000, 85  # pixels; a page of larger pictures would be hundreds of megabytes

Shown = dict[str, str]
"""JPEG data addresses by what they show: "input", "output", "target"."""


class Gallery:
    """The pictures of a report, gathered while rows come in: only those that may be shown are kept, as JPEG."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self.pictures: dict[str, Shown] = {}

    def offer(self, row: Row, pictures: Pictures) -> None:
        """Keep a row's pictures if it is among the worst so far, and let others go."""
        self._rows.append(row)
        wanted = wanted_names(self._rows)
        if row.name in wanted:
            self.pictures[row.name] = _shown(pictures)
        for name in [name for name in self.pictures if name not in wanted]:
            del self.pictures[name]

    def complete(self, rows: Sequence[Row], samples: Mapping[str, Sample], restore: Callable[[Image], Image]) -> None:
        """Restore again what is to be shown of rows that an earlier, interrupted evaluation made."""
        for name in wanted_names(rows) - self.pictures.keys():
            image, target = samples[name].load()
            self.pictures[name] = _shown(Pictures(image, restore(image), target))


def lowest(rows: Iterable[Row]) -> list[Row]:
    """The rows of the lowest output, the worst first; where nothing is scored, the first rows."""
    done = [row for row in rows if row.error is None]
    return sorted(done, key=lambda row: first(row.output) or 0.0)[:LOWEST]


def flagged(rows: Iterable[Row]) -> list[Row]:
    """The rows that got worse than their input, the greatest loss first."""
    return sorted((row for row in rows if row.worse), key=lambda row: row.gain or 0.0)[:FLAGGED]


def wanted_names(rows: Sequence[Row]) -> set[str]:
    """Of all rows whose pictures are shown."""
    return {row.name for row in [*lowest(rows), *flagged(rows)]}


def write_report(path: Path, results: Mapping[str, Any], rows: Sequence[Row], gallery: Gallery) -> None:
    """Write the page; an existing file is replaced in one step.

    Args:
        path: of the page.
        results: of `Session.results`.
        rows: all of them, in order.
        gallery: complete.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise MissingExtraError("jinja2", "eval") from None
    template = (resources.files("kbnet.evaluation") / "report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["measure"] = _measure
    environment.filters["label"] = label
    worst = lowest(rows)
    measures = list(dict.fromkeys(name for row in rows for name in row.output))
    page = environment.from_string(template).render(
        results=results,
        rows=rows,
        measures=measures,
        has_input=any(row.input for row in rows),
        lowest=worst,
        flagged=[row for row in flagged(rows) if row not in worst],
        flagged_above=sum(row.worse for row in worst),
        pictures=gallery.pictures,
    )
    files.write(page.encode(), path, overwrite=True)


def _measure(value: float | str | None, name: str) -> str:
    """As tables show it: decibels to a hundredth, others to four digits."""
    if value is None or value == "":
        return "–"
    number = float(value)
    if np.isnan(number):
        return "–"
    return ("∞" if number > 0 else "−∞") if np.isinf(number) else f"{number:.{2 if name == 'psnr' else 4}f}"


def _shown(pictures: Pictures) -> Shown:
    shown = {"input": _jpeg(to_uint8(pictures.input)), "output": _jpeg(to_uint8(pictures.output))}
    if pictures.target is not None:
        shown["target"] = _jpeg(to_depth(pictures.target, 8).astype(np.uint8, copy=False))
    return shown


def _jpeg(pixels: Any) -> str:
    quality = _QUALITY if pixels.shape[0] * pixels.shape[1] <= _LARGE else _LARGE_QUALITY
    data = encode(Photo(np.ascontiguousarray(pixels), format="jpeg"), quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
