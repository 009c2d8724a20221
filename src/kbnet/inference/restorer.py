"""The Restorer: a network, where it runs, and how an image of any size goes through it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kbnet.errors import InvalidInputError, ModelError
from kbnet.inference.arrays import accept
from kbnet.inference.devices import choose_device, choose_dtype
from kbnet.inference.exported import ExportedNetwork
from kbnet.inference.guard import undo_in
from kbnet.inference.runtimes import is_exported, open_exported
from kbnet.inference.samples import Range, Samples
from kbnet.inference.tiles import plan, sample_crops
from kbnet.inference.whole import Progress, restore_images
from kbnet.models import Network, catalogue, find, load_file, resolve
from kbnet.models.hub import settings_beside
from kbnet.nn import FullFrame, Gather

ContextName = Literal["global", "local", "tile"]

DEFAULT_OVERLAP = 64
DEFAULT_WINDOW = 64

SAMPLE_SIDE, SAMPLE_HALO = 128, 16
"""Crops from which the global context is gathered, and the border of each that is not averaged over, pixels.

A quarter of a photograph does not stand for the rest (tiles then differ from the full frame by up to 5 of 255), so the
crops cover the image as far as memory allows. Smaller crops differ more by the zeros around them.
"""


class Restorer:
    """Restores images with one network; build it once and call it for every image.

    Several threads may call one Restorer at once: nothing of a call is kept. On a CPU it is no faster than one after
    another, since each call uses every core, and takes the memory of all.

    Args:
        network: a KBNet-S or KBNet-L, or one that was exported (`kbnet.inference.runtimes`), which settles the window,
            offers the contexts that it was exported with, and perhaps takes one size of tile alone.
        device: "auto" (CUDA if there is one), or what torch.device takes.
        dtype: "auto" or "float32", or "bfloat16": a copy of the network computes in it, with sums and the image itself
            in float32; faster where the processor has products of bfloat16. float16 is refused: it overflows in these
            networks and gives black or coloured images.
        tile: side of the square tiles in pixels, 0 for the full frame at once, or "auto" for the largest tile that fits
            into the memory available.
        overlap: pixels that neighbouring tiles share; by default 64, or a window more with the local context, whose
            windows reach beyond the tile, but no more than half a tile.
        context: where averages over the image come from (`kbnet.nn.context`): "global" (one set for the image,
            gathered from a sample of it, so that tiles fit together), "local" (a window around each pixel), "tile"
            (each tile for itself, with visible seams), or "auto": the catalogue's choice for a shipped model, "global"
            for others, which is what the authors' code does on a full frame.
        window: side of the local context's window in pixels, best about the size of the training patches.
        ensemble: average over the eight flips and quarter turns; eight times the work.
        guard: keep areas as they were where the network returns something that cannot be the restored photo
            (`kbnet.inference.guard`); weights of others are known for coloured blotches. Not for rain, which hides
            so much that its removal looks alike.

    Raises:
        InvalidInputError: an argument is none of these.
    """

    def __init__(
        self,
        network: Network | ExportedNetwork,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        context: ContextName | Literal["auto"] = "auto",
        window: int = DEFAULT_WINDOW,
        ensemble: bool = False,
        guard: bool = False,
        name: str | None = None,
    ) -> None:
        self.dtype = choose_dtype(dtype)
        self.network: Network | ExportedNetwork
        if isinstance(network, ExportedNetwork):
            self.device = choose_device("cpu" if device == "auto" else device)
            context, tile = network.settle(str(self.device), context, tile)
            window = network.facts.window or window
            self.network = network
        else:
            self.device = choose_device(device)
            if self.dtype == torch.bfloat16:
                network = copy.deepcopy(network).to(torch.bfloat16)  # the caller's keeps its digits
            self.network = network.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # torch's stub lacks the pair
        self.tile = tile
        if tile != "auto" and (not isinstance(tile, int) or isinstance(tile, bool) or tile < 0 or 0 < tile < 64):
            raise InvalidInputError(f"expected tile 'auto', 0 for the full frame, or at least 64 pixels; got {tile!r}")
        if overlap is not None and (not isinstance(overlap, int) or isinstance(overlap, bool) or overlap < 0):
            raise InvalidInputError(f"expected an overlap of 0 or more whole pixels, got {overlap!r}")
        if context not in ("auto", "global", "local", "tile"):
            raise InvalidInputError(f"expected context 'auto', 'global', 'local' or 'tile', got {context!r}")
        self.context: ContextName = "global" if context == "auto" else context
        if not isinstance(window, int) or window < 1:
            raise InvalidInputError(f"expected a window of at least 1 whole pixel, got {window!r}")
        self.window = window
        self.overlap = overlap
        if isinstance(tile, int) and tile:
            plan(tile + self.network.input_multiple, *self.tiling(tile))  # refuses an overlap that leaves no step
        self.ensemble = ensemble
        self.guard = guard
        self.name = name or self.network.family
        self.task = ""
        """What the network restores, where that is known: the task of shipped weights."""
        self.gray: Restorer | None = None
        """Takes over for gray images: in a colour network their noise is equal in all three channels, as it never was
        in its training. `from_pretrained` sets it for tasks that have a gray model."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        context: ContextName | Literal["auto"] = "auto",
        ensemble: bool = False,
        guard: bool = False,
        preset: Literal["fast", "best"] = "fast",
    ) -> "Restorer":
        """A Restorer with shipped weights, by model or task name, or with those of a file (ours or the authors').

        A task has one or two sets of weights: `preset="best"` takes the larger ones where they ship, which are better
        and slower. It does not apply to the name of a model or file.

        By the name of a task, gray images are restored by its gray weights if it has some; by the name of a model,
        every image by that model.

        "user/repo" means a repository of the Hugging Face hub (`kbnet.models.hub`).

        The file may also be a graph that `kbnet export` wrote for ONNX Runtime (.onnx) or OpenVINO (.xml).

        Raises:
            InvalidInputError: an argument has no such value.
            UnknownModelError: there is no such model and no such file.
            CheckpointError: the file is damaged, hostile, or of another network.
            MissingExtraError: the file is a graph, and its runtime is not installed.

        Example:
            >>> import kbnet, numpy as np
            >>> restorer = kbnet.Restorer.from_pretrained("denoise")
            >>> restorer(np.zeros((48, 64, 3), np.uint8)).shape
            (48, 64, 3)
        """
        entry = find(str(name_or_path), preset)
        asked = context
        if context == "auto" and entry is not None:
            context = entry.context  # type: ignore[assignment]  # checked by __init__
        window = entry.window if entry else DEFAULT_WINDOW
        network: Network | ExportedNetwork
        if entry is None and is_exported(name_or_path):
            network = open_exported(name_or_path, dtype=choose_dtype(dtype))
        else:
            path = resolve(name_or_path, preset)
            network = load_file(path)
            if entry is None and (beside := settings_beside(path)):
                window = beside.window
                context = beside.context if context == "auto" else context  # type: ignore[assignment]  # checked there
        restorer = cls(
            network,
            device=device,
            dtype=dtype,
            tile=tile,
            overlap=overlap,
            context=context,
            window=window,
            ensemble=ensemble,
            guard=guard,
            name=entry.name if entry else str(name_or_path),
        )
        restorer.task = entry.task if entry else ""
        if entry is not None and entry.gray and str(name_or_path) not in catalogue():
            restorer.gray = cls.from_pretrained(
                entry.gray,
                device=device,
                dtype=dtype,
                tile=tile,
                overlap=overlap,
                context=asked,
                ensemble=ensemble,
                guard=guard,
            )
        return restorer

    def suited(self, channels: int) -> "Restorer":
        """The one that restores images of so many channels: this one, or its `gray`."""
        return self.gray if channels == 1 and self.gray is not None else self

    def __call__(
        self, image: Any, *, strength: float = 1.0, value_range: Range | None = None, progress: Progress | None = None
    ) -> Any:
        """Restore one image (or a batch of tensors) and return the same kind, shape and depth.

        Args:
            image: PIL.Image; numpy uint8, uint16 or float [H,W] or [H,W,3]; or torch float [B,C,H,W] with 1 or 3
                channels. Floats are nominally in [0,1]; values outside reach the network as they are and the result is
                not clipped. Integers are rounded half to even and clipped. Alpha of a PIL image is kept.
            strength: 1 for the restored image, 0 for the input, between for a blend.
            value_range: what black and white are in the image, such as (0, 255) for floats or (0, 4095) for uint16 that
                holds 12 bits; by default 0 and 1 for floats, and the whole range for integers. The result has it too.
            progress: called with (tiles done, tiles in all) after each tile.

        Raises:
            NonFiniteInputError: NaN or infinity in the image.
            InvalidInputError: any other kind of image, floats whose median exceeds 4 without a `value_range`, or a
                strength outside [0,1].
            ModelError: the network returned NaN or infinity.
        """
        if not 0 <= strength <= 1:
            raise InvalidInputError(f"expected a strength from 0 to 1, got {strength}")
        accepted = accept(image, value_range)
        self._restore(accepted.images, strength, progress or (lambda done, total: None))
        return accepted.result()

    def together(self, images: Sequence[Any], *, strength: float = 1.0, value_range: Range | None = None) -> list[Any]:
        """Restore images of one size and number of channels; small ones together, in a fraction of the time.

        Args:
            images: as `__call__` takes them, all of one height, width and number of channels.
            strength, value_range: as there.

        Raises:
            InvalidInputError: as there, or the images differ in size; for one image too many nothing is restored.
        """
        if not 0 <= strength <= 1:
            raise InvalidInputError(f"expected a strength from 0 to 1, got {strength}")
        if not images:
            return []
        accepted = [accept(image, value_range) for image in images]
        every = [one for each in accepted for one in each.images]
        if len(sizes := {(one.channels, one.height, one.width) for one in every}) > 1:
            raise InvalidInputError(f"expected images of one size, got {sorted(list(size) for size in sizes)}")
        self._restore(every, strength, lambda done, total: None)
        return [each.result() for each in accepted]

    def _restore(self, images: Sequence[Samples], strength: float, progress: Progress) -> None:
        restore_images(self.suited(images[0].channels), images, strength, progress)

    def describe(self) -> dict[str, Any]:
        """How images are restored, as plain values for reports."""
        runtime = self.network.runtime if isinstance(self.network, ExportedNetwork) else "torch"
        return {
            "model": self.name,
            "runtime": runtime,
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tile": self.tile,
            "overlap": self.tiling(2**16 if self.tile in ("auto", 0) else int(self.tile))[1],
            "context": self.context,
            "window": self.window,
            "ensemble": self.ensemble,
        } | ({"guard": True} if self.guard else {})

    def tiling(self, side: int) -> tuple[int, int, int]:
        """Tile, overlap and multiple, as `plan` takes them, for tiles of `side` pixels."""
        multiple = self.network.input_multiple
        side = max(side, multiple)
        usual = DEFAULT_OVERLAP + self.window if self.context == "local" else DEFAULT_OVERLAP
        return side, min(usual, side // 2) if self.overlap is None else self.overlap, multiple

    def sample(self, height: int, width: int, limit: int) -> tuple[int, int, list[tuple[int, int]]]:
        """Side, halo and top-left corners of crops spread evenly over an image, of at most `limit` pixels together."""
        multiple = self.network.input_multiple
        side = min(SAMPLE_SIDE, max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple)
        halo = SAMPLE_HALO if side == SAMPLE_SIDE else 0
        return side, halo, sample_crops(height, width, side, halo, limit, multiple)

    def gather(self, crops: Tensor, halo: int) -> list[Tensor]:
        """An image's averages from crops of it, [B,C,h,w].

        The crops go through the network together, so that each averaging site sees inputs computed with the shared
        averages of the sites before it, as it will in the tiles.
        """
        context = Gather(halo)
        self.run(crops, context)
        return context.means

    def run(self, x: Tensor, context: FullFrame) -> Tensor:
        """One pass of the network over [B,C,H,W]; a ModelError if the result holds NaN or infinity."""
        x = x.to(self.device).contiguous(memory_format=torch.channels_last)
        y: Tensor = self.network(x, context)
        if self.guard:
            return undo_in(x, y)
        if not bool(y.isfinite().all()):
            raise ModelError(
                f"the network {self.name} returned NaN or infinity for this image, so there is no result; its weights "
                "are damaged, or do not suit an image of such values"
            )
        return y


def restore(
    image: Any, task: str = "denoise", *, preset: Literal["fast", "best"] = "fast", value_range: Range | None = None
) -> Any:
    """Restore an image with the task's default model; see `Restorer.__call__` for the kinds of image.

    The model is loaded anew each time: for many images build a `Restorer`.

    Args:
        image: PIL.Image, numpy array or torch tensor.
        task: "denoise" (any noise), "denoise-gaussian" (the papers' task), "derain" or "deblur".
        preset: "best" for the larger weights of the task, where they ship.
        value_range: what black and white are in the image, as for the Restorer; by default 0 and 1 for floats.

    Raises:
        UnknownModelError: no weights ship for the task.
        InvalidInputError: not such an image.

    Example:
        >>> import kbnet, numpy as np
        >>> kbnet.restore(np.zeros((32, 32, 3), np.uint8)).dtype
        dtype('uint8')
    """
    return Restorer.from_pretrained(task, preset=preset)(image, value_range=value_range)
