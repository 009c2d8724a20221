"""Compares denoisers under one protocol, by quality and time. Rows are saved as they come, so a killed run resumes."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet import files
from kbnet.errors import InvalidInputError
from kbnet.evaluation.peers import Peer
from kbnet.evaluation.samples import digest_of
from kbnet.inference import Restorer
from kbnet.inference.identity import digest, identity
from kbnet.metrics import noisy, psnr, to_uint8
from kbnet.models import find, resolve

Row = dict[str, Any]
Pixels = NDArray[np.uint8]

_WRITE_EVERY = 2.0  # seconds; a killed run loses at most the rows of this interval and the current one


@dataclass(frozen=True)
class Method:
    """One denoiser of a comparison.

    Attributes:
        name: name in rows.
        denoise: takes a float32 image [H,W] or [H,W,3] on a scale of [0,1], not clipped, and sigma on a scale of 255;
            returns the image in the same shape.
        conditions: plain values that its results depend on (settings, versions, weights, threads, machine). Rows
            measured under other conditions are measured again.
        facts: other values for tables and figures, including `label`.
        colour: whether to evaluate it on colour sets.
        gray: whether to evaluate it on gray sets.
    """

    name: str
    denoise: Callable[[NDArray[np.float32], float], NDArray[np.floating]]
    conditions: Mapping[str, Any]
    facts: Mapping[str, Any]
    colour: bool = True
    gray: bool = True


def score(method: Method, clean: NDArray[np.uint8], sigma: float) -> Row:
    """Measure PSNR in dB by the Gaussian protocol (`kbnet.metrics.gaussian`), and the time of the denoiser alone.

    The noise is not clipped, and the result is rounded to 8 bits. `seconds` is wall time and `cpu_seconds` is CPU time
    of all threads, both per megapixel.
    """
    image = noisy(clean, sigma)
    wall, cpu = time.perf_counter(), time.process_time()
    restored = method.denoise(image, sigma)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    megapixels = clean.shape[0] * clean.shape[1] / 1e6
    return {
        "psnr": round(psnr(to_uint8(restored), clean), 4),
        "seconds": _digits(wall / megapixels),
        "cpu_seconds": _digits(cpu / megapixels),
        "megapixels": megapixels,
    }


class Comparison:
    """The rows of a comparison in a JSON file, saved as they are measured.

    Args:
        path: path of the file. Rows that are still valid are kept, including those of other sets, methods and sigmas.
            Rows measured on other images than those of `sets`, under the same names, are discarded.
        sets: clean 8-bit images, [H,W] or [H,W,3], by set and image name.
        head: values at the start of the file, such as the command and the machine.

    Raises:
        OSError: the file can't be read.
        InvalidInputError: the file isn't a results file of a comparison.
    """

    def __init__(self, path: Path, sets: Mapping[str, Mapping[str, Pixels]], head: Mapping[str, Any]) -> None:
        self.path, self.sets, self.head = path, sets, head
        self.methods: dict[str, Row] = {}
        self.rows: list[Row] = []
        self._digests = {
            (name, image): digest_of(pixels) for name, images in sets.items() for image, pixels in images.items()
        }
        self._written = time.monotonic()
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                self.methods, self.rows = found["methods"], found["rows"]
                if not all(isinstance(method["conditions"], dict) for method in self.methods.values()):
                    raise ValueError
                for row in self.rows:
                    if any(isinstance(row[key], dict | list) for key in ("set", "method", "sigma", "image", *_TIMES)):
                        raise ValueError
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InvalidInputError(f"{path} is not a results file of a comparison; move it away") from None

    def missing(self, methods: Sequence[Method], sigmas: Sequence[float]) -> list[tuple[Method, str, float, str]]:
        """List what is left to measure, in order: (method, set, sigma, image)."""
        for method in methods:
            known = self.methods.get(method.name)
            if known is not None and known["conditions"] != method.conditions:
                self.rows = [row for row in self.rows if row["method"] != method.name]
            self.methods[method.name] = {**method.facts, "conditions": dict(method.conditions)}
        self._discard({(method.name, sigma) for method in methods for sigma in sigmas})
        done = {(row["method"], row["set"], row["sigma"], row["image"]) for row in self.rows}
        return [
            (method, name, sigma, image)
            for method in methods
            for name, images in self.sets.items()
            for sigma in sigmas
            for image, pixels in images.items()
            if (method.gray if pixels.ndim == 2 else method.colour) and (method.name, name, sigma, image) not in done
        ]

    def _discard(self, asked: set[tuple[str, float]]) -> None:
        """Remove the rows of other images: sets are known by the names of their folders, which aren't unique."""
        others = {
            row["set"] for row in self.rows if (now := self._digest(row)) is not None and row.get("sha256", now) != now
        }
        self.rows = [row for row in self.rows if self._is_valid(row, others, asked)]

    def _is_valid(self, row: Row, others: set[str], asked: set[tuple[str, float]]) -> bool:
        now, was = self._digest(row), row.get("sha256")
        if now is not None and was is not None:
            return bool(was == now)
        if row["set"] in others:
            return False  # where one image is another, the set is another one
        # Rows of older files don't say what they were measured on. They are measured again if they are asked for; until
        # then they are kept, as nothing would replace them.
        return now is None or (row["method"], row["sigma"]) not in asked

    def _digest(self, row: Row) -> str | None:
        """Return the digest of the row's image as given now; None if it isn't given."""
        return self._digests.get((row["set"], row["image"]))

    def run(self, methods: Sequence[Method], sigmas: Sequence[float]) -> Iterator[Row]:
        """Measure what is missing, and yield each row when it is done. The file is complete at every moment."""
        warm: set[str] = set()
        try:
            for method, name, sigma, image in self.missing(methods, sigmas):
                clean = self.sets[name][image]
                if method.name not in warm:  # the first call loads libraries
                    method.denoise(noisy(clean[:64, :64], sigma), sigma)
                    warm.add(method.name)
                row = {"set": name, "method": method.name, "sigma": sigma, "image": image}
                row |= score(method, clean, sigma) | {"sha256": self._digests[name, image]}
                self.rows.append(row)
                if time.monotonic() - self._written > _WRITE_EVERY:
                    self.write()
                yield row
        finally:
            self.write()

    def summary(self) -> list[Row]:
        """Return a row for each set, sigma and method, fastest first: images, mean PSNR in dB, seconds/megapixel."""
        found: dict[tuple[str, float, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["set"], row["sigma"], row["method"]), []).append(row)
        table = []
        for (name, sigma, method), rows in found.items():
            sizes = [row["megapixels"] for row in rows]
            means = {key: float(np.average([row[key] for row in rows], weights=sizes)) for key in _TIMES}
            table.append(
                {
                    "set": name,
                    "sigma": sigma,
                    "method": method,
                    "images": len(rows),
                    "psnr": round(float(np.mean([row["psnr"] for row in rows])), 4),
                    **{key: _digits(value) for key, value in means.items()},
                }
            )
        return sorted(table, key=lambda row: (row["set"], row["sigma"], row["seconds"]))

    def write(self) -> None:
        """Replace the file with the current rows."""
        rows = sorted(self.rows, key=lambda row: (row["set"], row["method"], row["sigma"], row["image"]))
        content = {**self.head, "methods": self.methods, "summary": self.summary(), "rows": rows}
        files.make_folder(self.path.parent)
        files.write(_dump(content).encode(), self.path, overwrite=True)
        self._written = time.monotonic()


_TIMES = ("seconds", "cpu_seconds")


def _digits(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def _dump(content: Mapping[str, Any]) -> str:
    """Format as JSON with one row per line, so that diffs are readable."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    others = {key: value for key, value in content.items() if key != "rows"}
    return f'{json.dumps(others, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def peer_method(peer: Peer, machine: Mapping[str, Any]) -> Method:
    """Wrap a peer as a method; `machine` is added to its conditions."""
    conditions = {"settings": peer.settings, "package": f"{peer.package} {peer.version()}", **machine}
    facts = {"label": peer.label, "source": peer.source, "threads": peer.threads, "told_sigma": True}
    return Method(peer.name, peer.denoise, conditions, facts)


def restorer_method(name_or_path: str, machine: Mapping[str, Any]) -> Method:
    """Wrap a network, run without tiles, as a method; `machine` is added to its conditions.

    Raises:
        UnknownModelError: there is no such model or file.
        CheckpointError: the file isn't a weights file.
    """
    entry = find(name_or_path)  # by name: a task can have a second model for gray images, but only one is measured here
    restorer = Restorer.from_pretrained(entry.name if entry else name_or_path, tile=0)
    name = Path(restorer.name).stem
    how = identity(restorer)
    del how["weights"], how["gray"]  # sha256 replaces the first; there is no second model
    conditions = {**how, "model": name, "sha256": digest(resolve(name_or_path)), **machine}
    facts = {"label": name, "source": "kbnet", "threads": "all", "told_sigma": False}

    def denoise(image: NDArray[np.float32], sigma: float) -> NDArray[np.floating]:
        restored: NDArray[np.floating] = restorer(image)
        return restored

    colour, gray = restorer.config.channels == 3, not (entry and entry.gray)
    return Method(name, denoise, conditions, facts, colour=colour, gray=gray)
