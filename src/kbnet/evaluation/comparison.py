"""Denoisers side by side under one protocol: quality and time, row by row, so that a run which is killed goes on."""

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
from kbnet.inference import Restorer
from kbnet.inference.identity import digest, identity
from kbnet.metrics import noisy, psnr, to_uint8
from kbnet.models import find, resolve

Row = dict[str, Any]
Pixels = NDArray[np.uint8]

_WRITE_EVERY = 2.0  # seconds; a killed run loses at most these rows and the one that it was at


@dataclass(frozen=True)
class Method:
    """One denoiser of a comparison.

    Attributes:
        name: in rows.
        denoise: (float32 [H,W] or [H,W,3] on the scale of [0,1], not clipped; sigma on the scale of 255) -> the same.
        conditions: plain values that its figures depend on (settings, versions, weights, threads, machine). Rows that
            were measured under others are measured again.
        facts: what else a table or a picture says of it, `label` among it.
        colour: whether it can be judged on colour sets.
        gray: whether it is the one to be judged on gray sets.
    """

    name: str
    denoise: Callable[[NDArray[np.float32], float], NDArray[np.floating]]
    conditions: Mapping[str, Any]
    facts: Mapping[str, Any]
    colour: bool = True
    gray: bool = True


def score(method: Method, clean: NDArray[np.uint8], sigma: float) -> Row:
    """PSNR by the Gaussian protocol (`kbnet.metrics.gaussian`), and the time that the denoiser alone took.

    Noise is not clipped, the result is rounded to 8 bits. `seconds` is the time that passed, `cpu_seconds` that of all
    threads together, both a megapixel.
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
    """The rows of a comparison in a file of JSON, measured one after another and kept as they come.

    Args:
        path: the file. Rows in it that still hold are kept, also those of sets, methods and sigmas not asked for now.
        sets: clean 8-bit pictures, [H,W] or [H,W,3], by the set's name and their own.
        head: written before everything else: the command, the machine.

    Raises:
        OSError: the file cannot be read.
        InvalidInputError: the file is not one of these.
    """

    def __init__(self, path: Path, sets: Mapping[str, Mapping[str, Pixels]], head: Mapping[str, Any]) -> None:
        self.path, self.sets, self.head = path, sets, head
        self.methods: dict[str, Row] = {}
        self.rows: list[Row] = []
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
                raise InvalidInputError(
                    f"expected results of a comparison in {path}, found something else; move it away"
                ) from None

    def missing(self, methods: Sequence[Method], sigmas: Sequence[float]) -> list[tuple[Method, str, float, str]]:
        """What there is to measure, in order: (method, set, sigma, image)."""
        for method in methods:
            known = self.methods.get(method.name)
            if known is not None and known["conditions"] != method.conditions:
                self.rows = [row for row in self.rows if row["method"] != method.name]
            self.methods[method.name] = {**method.facts, "conditions": dict(method.conditions)}
        done = {(row["method"], row["set"], row["sigma"], row["image"]) for row in self.rows}
        return [
            (method, name, sigma, image)
            for method in methods
            for name, images in self.sets.items()
            for sigma in sigmas
            for image, pixels in images.items()
            if (method.gray if pixels.ndim == 2 else method.colour) and (method.name, name, sigma, image) not in done
        ]

    def run(self, methods: Sequence[Method], sigmas: Sequence[float]) -> Iterator[Row]:
        """Measure what is missing; each row is given when it is known. The file is whole at every moment."""
        warm: set[str] = set()
        try:
            for method, name, sigma, image in self.missing(methods, sigmas):
                clean = self.sets[name][image]
                if method.name not in warm:  # the first call loads libraries
                    method.denoise(noisy(clean[:64, :64], sigma), sigma)
                    warm.add(method.name)
                row = {"set": name, "method": method.name, "sigma": sigma, "image": image}
                row |= score(method, clean, sigma)
                self.rows.append(row)
                if time.monotonic() - self._written > _WRITE_EVERY:
                    self.write()
                yield row
        finally:
            self.write()

    def summary(self) -> list[Row]:
        """A row for each set, sigma and method, the fastest first: images, mean PSNR in dB, seconds a megapixel."""
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
        """Replace the file by what is known now."""
        rows = sorted(self.rows, key=lambda row: (row["set"], row["method"], row["sigma"], row["image"]))
        content = {**self.head, "methods": self.methods, "summary": self.summary(), "rows": rows}
        files.make_folder(self.path.parent)
        files.write(_dump(content).encode(), self.path, overwrite=True)
        self._written = time.monotonic()


_TIMES = ("seconds", "cpu_seconds")


def _digits(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def _dump(content: Mapping[str, Any]) -> str:
    """JSON with one row a line, so that a difference between two runs can be read."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    others = {key: value for key, value in content.items() if key != "rows"}
    return f'{json.dumps(others, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def peer_method(peer: Peer, machine: Mapping[str, Any]) -> Method:
    """A peer as a method; `machine` joins its conditions."""
    conditions = {"settings": peer.settings, "package": f"{peer.package} {peer.version()}", **machine}
    facts = {"label": peer.label, "source": peer.source, "threads": peer.threads, "told_sigma": True}
    return Method(peer.name, peer.denoise, conditions, facts)


def restorer_method(name_or_path: str, machine: Mapping[str, Any]) -> Method:
    """A network on the full frame as a method.

    Raises:
        UnknownModelError: there is no such model and no such file.
        CheckpointError: the file is not a network's.
    """
    entry = find(name_or_path)  # a task may have a second model for gray images, and here one model is measured
    restorer = Restorer.from_pretrained(entry.name if entry else name_or_path, tile=0)
    name = Path(restorer.name).stem
    how = identity(restorer)
    del how["weights"], how["gray"]  # the file's digest says the first, and one model alone is measured
    conditions = {**how, "model": name, "sha256": digest(resolve(name_or_path)), **machine}
    facts = {"label": name, "source": "kbnet", "threads": "all", "told_sigma": False}

    def denoise(image: NDArray[np.float32], sigma: float) -> NDArray[np.floating]:
        restored: NDArray[np.floating] = restorer(image)
        return restored

    colour, gray = restorer.network.config.channels == 3, not (entry and entry.gray)
    return Method(name, denoise, conditions, facts, colour=colour, gray=gray)
