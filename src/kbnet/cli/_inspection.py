"""Turns the arguments of `kbnet inspect model` into a figure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError
from kbnet.evaluation.inspection import Pixel, block_names, default_block

MAX_PIXELS = 6  # as many colours as are easy to distinguish


@dataclass(frozen=True)
class Subject:
    """What to draw: a network, one of its blocks, and a part of a photo.

    Attributes:
        name: the network's name, usable in a file name.
        network: the network, in eval mode.
        block: the block's name.
        pixels: pixels of the photo; empty to choose typical ones.
        shown: the part of the photo to run the network on, uint8, [H,W] or [H,W,3] as the network expects.
        corner: column and row of its first pixel in the photo.
        context: a context of `kbnet.nn.context` for the network.
    """

    name: str
    network: Any
    block: str
    pixels: Sequence[Pixel]
    shown: NDArray[np.uint8]
    corner: Pixel
    context: Any

    @classmethod
    def load(
        cls, name: str, photo: Path, *, block: str | None, pixels: Sequence[str], size: int, context: str | None
    ) -> "Subject":
        """Read the network and the photo.

        Raises:
            InvalidInputError: an unknown block or context, or a pixel outside the photo.
            KBNetError: the network or the photo can't be read.
        """
        from kbnet.data import decode
        from kbnet.evaluation.inspection import check_pixels
        from kbnet.inference import Restorer
        from kbnet.inference.runners.graphs import ExportedNetwork
        from kbnet.nn import FullFrame, Local

        chosen = [_pixel(text) for text in pixels]
        if len(chosen) > MAX_PIXELS:
            raise InvalidInputError(f"expected up to {MAX_PIXELS} pixels, got {len(chosen)}")
        if context not in (None, "global", "local"):
            raise InvalidInputError(f"expected --context global or local, got {context!r}")
        restorer = Restorer.from_pretrained(name, context=context or "auto")  # type: ignore[arg-type]  # checked above
        network = restorer.network
        if isinstance(network, ExportedNetwork):
            raise InvalidInputError(f"expected weights, got the exported graph {name}, whose blocks can't be inspected")
        names = block_names(network)
        if block is not None and block not in names:
            raise InvalidInputError(f"expected one of the blocks {', '.join(names)}; got {block!r}")
        pixels_of_photo = decode(photo, network.config.channels)
        height, width = pixels_of_photo.shape[:2]
        check_pixels(chosen, width, height)
        multiple = network.input_multiple
        left, top = (
            _start(side, min(size, side), None if not chosen else chosen[0][axis], multiple)
            for axis, side in enumerate((width, height))
        )
        shown = pixels_of_photo[top : top + size, left : left + size]
        if shown.shape[0] < multiple or shown.shape[1] < multiple:
            raise InvalidInputError(
                f"expected a photo of at least {multiple} x {multiple} pixels, got {width} x {height}"
            )
        shown = shown[: shown.shape[0] // multiple * multiple, : shown.shape[1] // multiple * multiple]
        right, bottom = left + shown.shape[1], top + shown.shape[0]
        if not all(left <= x < right and top <= y < bottom for x, y in chosen):
            raise InvalidInputError(
                f"expected pixels with x from {left} to {right - 1} and y from {top} to {bottom - 1}, the part drawn; "
                "use a larger --size or other pixels"
            )
        return cls(
            name=re.sub(r"[^\w.-]+", "-", Path(restorer.name).stem),
            network=network,
            block=block or default_block(network),
            pixels=chosen,
            shown=shown,
            corner=(left, top),
            context=Local(restorer.window) if restorer.context == "local" else FullFrame(),
        )

    def draw(self, group: int | None) -> NDArray[np.uint8]:
        """The figure, [H,W,3].

        Raises:
            InvalidInputError: the block has no such group of channels.
            MissingExtraError: matplotlib is not installed.
        """
        from kbnet.data import to_tensor
        from kbnet.evaluation.figures import draw_block
        from kbnet.evaluation.inspection import inspect_block, typical_pixels

        device = next(self.network.parameters()).device
        view = inspect_block(self.network, to_tensor(self.shown).to(device), self.block, self.context)
        groups = view.bases.shape[1] // view.bases.shape[2]
        if group is not None and group >= groups:
            raise InvalidInputError(f"expected a group from 0 to {groups - 1} in block {self.block}, got {group}")
        left, top = self.corner
        if self.pixels:
            pixels = {f"{x},{y}": (x - left, y - top) for x, y in self.pixels}
        else:
            pixels = typical_pixels(view.output.mean(0).float().cpu().numpy())
        return draw_block(view, self.shown, pixels, group=group, title=self.name)


def _pixel(text: str) -> Pixel:
    found = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*", text)
    if found is None:
        raise InvalidInputError(f"expected --pixel X,Y with whole numbers, such as 120,45; got {text!r}")
    return int(found[1]), int(found[2])


def _start(side: int, size: int, at: int | None, multiple: int) -> int:
    """First pixel of the part drawn, along one axis: around `at` or centred, aligned to the network's multiple."""
    centre = side // 2 if at is None else at
    start = max(0, min(centre - size // 2, side - size))
    return start // multiple * multiple
