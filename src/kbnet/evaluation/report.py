"""Reports: one self-contained HTML page with all rows, and the most important images side by side."""

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
"""Number of images with the lowest scores in a report."""

FLAGGED = 30
"""Maximum number of images in a report that are worse than their input; the table marks all of them."""

_QUALITY = 92
_LARGE, _LARGE_QUALITY = 1_000_000, 85  # in pixels; keeps a page with large images below hundreds of megabytes

Shown = dict[str, str]
"""JPEG data URLs by content: "input", "output" and "target"."""


class Gallery:
    """Collects the images of a report as rows come in. Keeps only candidates for the report, as JPEG."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self.pictures: dict[str, Shown] = {}

    def offer(self, row: Row, pictures: Pictures) -> None:
        """Keep a row's images if it is among the worst so far, and drop those that no longer are."""
        self._rows.append(row)
        wanted = wanted_names(self._rows)
        if row.name in wanted:
            self.pictures[row.name] = _shown(pictures)
        for name in [name for name in self.pictures if name not in wanted]:
            del self.pictures[name]

    def complete(self, rows: Sequence[Row], samples: Mapping[str, Sample], restore: Callable[[Image], Image]) -> None:
        """Restore images again for rows that come from an earlier, interrupted evaluation."""
        for name in wanted_names(rows) - self.pictures.keys():
            image, target = samples[name].load()
            self.pictures[name] = _shown(Pictures(image, restore(image), target))


def lowest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with the lowest scores, worst first; the first rows if there are no scores."""
    done = [row for row in rows if row.error is None]
    return sorted(done, key=lambda row: first(row.output) or 0.0)[:LOWEST]


def flagged(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that are worse than their input, the largest loss first."""
    return sorted((row for row in rows if row.worse), key=lambda row: row.gain or 0.0)[:FLAGGED]


def wanted_names(rows: Sequence[Row]) -> set[str]:
    """Return the names of all rows whose images the report shows."""
    return {row.name for row in [*lowest(rows), *flagged(rows)]}


def write_report(
    path: Path, results: Mapping[str, Any], rows: Sequence[Row], gallery: Gallery, *, overwrite: bool = False
) -> None:
    """Write the page.

    Args:
        path: path of the page.
        results: the result of `Session.results`.
        rows: all rows, in order.
        gallery: the images; call `Gallery.complete` first.
        overwrite: whether to replace an existing file; it is replaced atomically.

    Raises:
        OutputExistsError: the file exists, and `overwrite` is False.
        MissingExtraError: jinja2 isn't installed.
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
    files.write(page.encode(), path, overwrite=overwrite)


def _measure(value: float | str | None, name: str) -> str:
    """Format a value for tables: PSNR with two decimals, others with four."""
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
