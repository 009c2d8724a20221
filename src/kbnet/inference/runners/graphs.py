"""Networks exported as graphs: the metadata in such a file, and how the Restorer runs it.

GraphFacts          the metadata inside the file
ExportedNetwork     called like a network, with a context; a runtime runs it (`kbnet.inference.runners.runtimes`)
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kbnet.engine.contexts import Context, Gather, Image, Local, Shared
from kbnet.errors import CheckpointError, InvalidInputError
from kbnet.inference.runners import BUDGET_BYTES
from kbnet.inference.tiles import reflect_pad
from kbnet.models import Config
from kbnet.models.config import config_from

SUFFIXES = (".onnx", ".xml")
"""File name endings: ONNX, and OpenVINO's .xml, which needs its .bin beside it."""

PREFIX = "kbnet."
"""Prefix of our entries in a file's metadata."""

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]


@dataclass(frozen=True)
class GraphFacts:
    """The metadata of an exported file.

    Attributes:
        family, settings: of the network, `settings` as JSON.
        name, preset, task, license: of the weights, as far as the catalogue knows them; empty otherwise.
        weights_sha256: of the file that the weights came from; empty for a network made in memory.
        window: side of the local context's window in pixels; 0 where the graph averages over its whole input.
        pooled: whether the averages over the image are inputs and outputs, so that tiles can share them.
        tile: side of the input in pixels; 0 for any height and width.
        uint8: whether image and result are uint8 [H,W,C] instead of float32 [B,C,H,W].
        dtype: in which it computes, "float32", "bfloat16", or "int8" for its convolutions and float32 for the rest.
        sites: shapes of the averages in the order in which the network requests them, with `pooled`.
        kbnet_version: that wrote the file.
    """

    family: str
    settings: str
    name: str = ""
    preset: str = ""
    task: str = ""
    license: str = ""
    weights_sha256: str = ""
    window: int = 0
    pooled: bool = False
    tile: int = 0
    uint8: bool = False
    dtype: str = "float32"
    sites: tuple[tuple[int, ...], ...] = ()
    kbnet_version: str = ""

    @property
    def values(self) -> int:
        """The number of all averages together."""
        return sum(math.prod(shape) for shape in self.sites)

    def config(self) -> Config:
        """The network's settings."""
        return config_from(self.family, json.loads(self.settings))

    def to_strings(self) -> dict[str, str]:
        """As a file's metadata."""
        plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in asdict(self).items()}
        return {PREFIX + key: value for key, value in plain.items()}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], name: str) -> "GraphFacts":
        """From a file's metadata.

        Raises:
            CheckpointError: they are not those of a graph that kbnet wrote; the message names the file.
        """
        found = {key.removeprefix(PREFIX): text for key, text in strings.items() if key.startswith(PREFIX)}
        try:
            values: dict[str, Any] = {
                key: text if isinstance(default, str) else json.loads(text)
                for key, default in asdict(cls("", "")).items()
                if (text := found[key]) is not None
            }
            values["sites"] = tuple(tuple(int(n) for n in shape) for shape in values["sites"])
            facts = cls(**values)
            for key, kind in (("window", int), ("tile", int), ("pooled", bool), ("uint8", bool)):
                if type(getattr(facts, key)) is not kind:
                    raise TypeError(f"expected {key} to be {kind.__name__}")
            facts.config()
        except (KeyError, ValueError, TypeError, OverflowError, InvalidInputError) as error:
            raise CheckpointError(
                f"expected a graph that `kbnet export` wrote, got {name}; its metadata is missing or damaged ({error})"
            ) from error
        return facts


class ExportedNetwork:
    """A graph in a runtime, called like a network: (image [B,C,H,W], context) -> the same shape.

    Args:
        facts: the file's.
        run: computes the graph: named inputs to outputs in order.
        bytes_per_pixel: peak memory of activations over the pixels of the input.
        runtime, version: name and version of the runtime, for reports.
        digest: SHA-256 of the files.
        dtype: in which the runtime computes.
    """

    device = "cpu"
    budget_bytes = BUDGET_BYTES

    def __init__(
        self,
        facts: GraphFacts,
        run: Run,
        *,
        bytes_per_pixel: int = 0,
        runtime: str = "",
        version: str = "",
        digest: str = "",
        dtype: str = "float32",
    ) -> None:
        self.facts, self.run, self.runtime, self.version, self.digest = facts, run, runtime, version, digest
        self.dtype = dtype
        self.config = facts.config()
        self.family = facts.family
        self.bytes_per_pixel = bytes_per_pixel

    @property
    def contexts(self) -> tuple[str, ...]:
        """Names of the Restorer's contexts that the graph offers, the preferred one first."""
        if self.facts.window:
            return ("local",)
        return ("global", "tile") if self.facts.pooled else ("tile",)

    def settle(self, device: str, context: str, tile: int | Literal["auto"]) -> tuple[Any, int | Literal["auto"]]:
        """The Restorer's context and tile for this graph.

        Raises:
            InvalidInputError: the graph doesn't support these.
        """
        if self.facts.uint8:
            raise InvalidInputError(
                "this graph has uint8 input and output, for other programs; to restore with it, export without --uint8"
            )
        if device != "cpu":
            raise InvalidInputError(
                f"kbnet runs exported graphs only on the CPU, got device {device!r}; use device 'cpu'"
            )
        if context == "auto":
            context = self.contexts[0]
        if context not in self.contexts:
            hint = "; export one with --context for tiles that share averages" if not self.facts.window else ""
            raise InvalidInputError(
                f"expected a context that this graph supports ({', '.join(self.contexts)}), got {context!r}{hint}"
            )
        if self.facts.tile and tile not in ("auto", self.facts.tile):
            raise InvalidInputError(f"this graph needs tiles of {self.facts.tile} pixels, got tile {tile!r}")
        return context, self.facts.tile or tile

    @property
    def plain_tiles_only(self) -> bool:
        """Whether tiles of one image can't see one another's averages, which leaves seams."""
        return self.contexts == ("tile",)

    def __call__(self, image: Image, context: Context) -> Image:
        """The restored image [B,C,H,W], float32; a `Gather` is given the averages."""
        facts = self.facts
        if isinstance(context, Local) != bool(facts.window) or (
            isinstance(context, Local) and context.window != facts.window
        ):
            raise InvalidInputError(f"this graph averages over a window of {facts.window} pixels (0: its whole input)")
        if isinstance(context, Gather | Shared) and not facts.pooled:
            raise InvalidInputError("this graph averages only over its own input; export one with --context")
        if facts.tile:
            return self._fixed(image)
        inputs: Arrays = {"image": np.ascontiguousarray(image, np.float32)}
        if facts.pooled:
            shared = isinstance(context, Shared)
            inputs["context"] = (
                np.concatenate([np.ravel(mean) for mean in context.means]).astype(np.float32)
                if isinstance(context, Shared)
                else np.zeros(facts.values, np.float32)
            )
            inputs["use_context"] = np.array([shared])
            inputs["halo"] = np.array([context.halo if isinstance(context, Gather) else 0], np.int64)
            if not isinstance(context, Gather | Shared) and len(image) > 1:
                return np.concatenate([self(one[None], context) for one in image])  # each averages over itself
        result, *pooled = self.run(inputs)
        if isinstance(context, Gather):
            ends = np.cumsum([math.prod(shape) for shape in facts.sites])
            parts = np.split(np.array(pooled[0]), ends[:-1])
            context.means = [part.reshape(shape) for part, shape in zip(parts, facts.sites, strict=True)]
        return np.array(result)

    def _fixed(self, image: Image) -> Image:
        """By a graph of one size: smaller images are mirrored up to it."""
        side = self.facts.tile
        height, width = image.shape[2:]
        if height > side or width > side:
            raise InvalidInputError(
                f"this graph accepts only {side} x {side} pixels, got {height} x {width}; restore in tiles"
            )
        padded = np.ascontiguousarray(reflect_pad(image, side))
        results: list[Image] = [self.run({"image": one[None]})[0] for one in padded]
        return np.concatenate(results)[:, :, :height, :width]
