"""The Restorer: a network, its device and precision, and how it processes images of any size."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kbnet.engine.contexts import Context, Gather, Image, Means
from kbnet.errors import InvalidInputError, ModelError
from kbnet.inference.arrays import accept
from kbnet.inference.devices import choose_device, choose_dtype
from kbnet.inference.guard import undo_in
from kbnet.inference.look import Look
from kbnet.inference.runners import Runner, open_network
from kbnet.inference.runners.graphs import ExportedNetwork
from kbnet.inference.runners.runtimes import is_exported, open_exported
from kbnet.inference.samples import Range, Samples
from kbnet.inference.tiles import plan, sample_crops
from kbnet.inference.whole import Progress, restore_images
from kbnet.models import Config, Weights, catalogue, find, read_weights, resolve
from kbnet.models.usage import usage_in

if TYPE_CHECKING:
    import torch

    from kbnet.nn import Network

ContextName = Literal["global", "local", "tile"]

DEFAULT_OVERLAP = 64
DEFAULT_WINDOW = 64

SAMPLE_SIDE, SAMPLE_HALO = 128, 16
"""Side of the crops from which the global context is gathered, and the border of each that is not averaged, pixels.

A quarter of a photo does not represent the rest (tiles then differ from the full frame by up to 5 of 255), so the
crops cover as much of the image as memory allows. In smaller crops, zero padding distorts the averages more.
"""


class Restorer:
    """Restores images with one network. Create it once and call it for each image.

    A Restorer is thread-safe: calls share no state. On a CPU, concurrent calls are no faster than sequential ones,
    since each call uses every core, and their memory adds up.

    Args:
        network: weights (`kbnet.models.read_weights`), a KBNet-S or KBNet-L as PyTorch modules, whose later changes
            count, or an exported network (`kbnet.inference.runners.runtimes`). An exported network determines the
            window, supports only the contexts that it was exported with, and may have a fixed tile size.
        device: "auto" (CUDA if available), or what torch.device accepts. Devices other than the CPU need PyTorch.
        dtype: "auto", "float32" or "bfloat16". With bfloat16, the network multiplies in bfloat16; sums and the image
            stay float32. On a CPU it does so only where that measured faster than float32, as on AMD's processors from
            Zen 4 on; `describe()` tells. "auto" is bfloat16 on such a CPU for included weights that lose less than
            0.01 dB by it, otherwise float32. float16 is refused: it overflows in these networks and produces black or
            coloured images.
        tile: side of the square tiles in pixels, 0 for the full frame at once, or "auto" for the largest tile that
            fits into the available memory.
        overlap: pixels that neighbouring tiles share. The default is 64, plus the window with the local context
            (whose windows extend beyond the tile), but at most half a tile.
        context: where averages over the image come from (`kbnet.nn.context`): "global" (one set for the image,
            gathered from a sample of it, so that tiles match), "local" (a window around each pixel), "tile" (each
            tile separately, which leaves visible seams), or "auto": the catalogue's choice for an included model,
            otherwise "global", which is what the authors' code computes on a full frame.
        window: side of the local context's window in pixels; works best near the size of the training patches.
        ensemble: average eight flipped and rotated passes; takes eight times as long.
        guard: keep the input in areas where the output can't be the restored photo (`kbnet.inference.guard`);
            third-party weights are known to produce coloured blotches. Don't use it for rain: removing rain changes
            areas just as much.

    Raises:
        InvalidInputError: an argument has the wrong type or value.
        MissingExtraError: the network or the device needs PyTorch, which isn't installed.
    """

    def __init__(
        self,
        network: "Weights | Network | ExportedNetwork",
        *,
        device: "str | torch.device" = "auto",
        dtype: "str | torch.dtype" = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        context: ContextName | Literal["auto"] = "auto",
        window: int = DEFAULT_WINDOW,
        ensemble: bool = False,
        guard: bool = False,
        name: str | None = None,
    ) -> None:
        self._requested = choose_dtype(dtype)
        self.runner: Runner
        """Runs the network."""
        if isinstance(network, ExportedNetwork):
            self.device = choose_device("cpu" if str(device) == "auto" else device)
            context, tile = network.settle(self.device, context, tile)
            window = network.facts.window or window
            self.runner = network
        else:
            self.device = choose_device(device)
            self.runner = open_network(network, self.device, "auto" if str(dtype) == "auto" else self._requested)
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
            plan(tile + self.config.input_multiple, *self.tiling(tile))  # refuses an overlap that leaves no step
        self.ensemble = ensemble
        self.guard = guard
        self.name = name or self.config.family
        self.task = ""
        """The task of included weights; empty for other weights."""
        self._gray: Restorer | Callable[[], Restorer] | None = None
        self._raw: Restorer | Callable[[], Restorer] | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: "str | torch.device" = "auto",
        dtype: "str | torch.dtype" = "auto",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        context: ContextName | Literal["auto"] = "auto",
        ensemble: bool = False,
        guard: bool = False,
        preset: Literal["fast", "best"] = "fast",
    ) -> "Restorer":
        """Create a Restorer from included weights, by model or task name, or from a weights file.

        A task has one or two sets of weights: `preset="best"` selects the larger ones, which are slower and more
        accurate, if there are any. It does not apply to model names and files.

        With a task name, gray images are restored by the task's gray weights, and camera raw files by those for raw
        files, if it has any. With a model name, that model restores every image.

        "user/repo" is a repository on the Hugging Face Hub (`kbnet.models.hub`).

        The file can also be a graph that `kbnet export` wrote for ONNX Runtime (.onnx) or OpenVINO (.xml).

        Raises:
            InvalidInputError: an argument has an invalid value.
            UnknownModelError: no such model or file exists.
            CheckpointError: the file is damaged, unsafe, or belongs to another network.
            MissingExtraError: the file is a graph whose runtime isn't installed, or it needs PyTorch: one of the
                authors' files, or a GPU.

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
        network: Weights | ExportedNetwork
        if entry is None and is_exported(name_or_path):
            network = open_exported(name_or_path, dtype=choose_dtype(dtype))
        else:
            path = resolve(name_or_path, preset)
            network = replace(read_weights(path), fast_dtype=entry.fast_dtype if entry else "float32")
            if entry is None and (usage := usage_in(path)):
                window = usage.window
                context = usage.context if context == "auto" else context  # type: ignore[assignment]  # checked there
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
        if entry is not None and str(name_or_path) not in catalogue():
            options = {"device": device, "dtype": dtype, "tile": tile, "overlap": overlap, "context": asked}
            load = partial(cls.from_pretrained, ensemble=ensemble, guard=guard, **options)  # type: ignore[arg-type]
            restorer._gray = partial(load, entry.gray) if entry.gray else None
            restorer._raw = partial(load, entry.raw) if entry.raw else None
        return restorer

    @property
    def gray(self) -> "Restorer | None":
        """Restores gray images; loaded at its first use.

        `from_pretrained` sets it for tasks that have a gray model: in a colour network, their noise is the same in all
        three channels, which never occurs in training.
        """
        if callable(make := self._gray) and not isinstance(make, Restorer):
            self._gray = make()
        return self._gray  # type: ignore[return-value]  # made above

    @gray.setter
    def gray(self, other: "Restorer | None") -> None:
        self._gray = other

    @property
    def raw(self) -> "Restorer | None":
        """Restores camera raw files before they are developed; loaded at its first use.

        Its network takes a sensor's planes (`kbnet.imaging.sensor`), not images: see `kbnet.inference.developing`.
        """
        if callable(make := self._raw) and not isinstance(make, Restorer):
            self._raw = make()
        return self._raw  # type: ignore[return-value]  # made above

    @property
    def dtype(self) -> str:
        """The type of the network's products: float32, bfloat16, or int8 for a quantised graph."""
        return self.runner.dtype

    @property
    def config(self) -> Config:
        """The network's settings."""
        return self.runner.config

    @property
    def network(self) -> "Network | ExportedNetwork":
        """The network as PyTorch modules, or the exported graph.

        For a Restorer made from weights, the first access builds the modules, and they run from then on, so that
        changes to them count; in float32, unless bfloat16 was requested.

        Raises:
            MissingExtraError: PyTorch isn't installed.
        """
        if isinstance(self.runner, ExportedNetwork):
            return self.runner
        from kbnet.inference.runners.modules import TorchRunner, network_of

        if not isinstance(self.runner, TorchRunner):
            self.runner = TorchRunner(network_of(self.runner.weights), self.device, self._requested)  # type: ignore[attr-defined]  # of the runners of weights
        return self.runner.network

    def suited(self, channels: int) -> "Restorer":
        """The Restorer for images with this number of channels: itself, or its `gray`."""
        return self.gray if channels == 1 and self.gray is not None else self

    def __call__(
        self,
        image: Any,
        *,
        strength: float = 1.0,
        color_strength: float | None = None,
        detail: float = 0.0,
        value_range: Range | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """Restore one image (or a batch of tensors) and return the same kind, shape and bit depth.

        Args:
            image: PIL.Image; numpy uint8, uint16 or float [H,W] or [H,W,3]; or torch float [B,C,H,W] with 1 or 3
                channels. Floats are nominally in [0,1]; values outside are passed to the network unchanged, and the
                result is not clipped. Integers are rounded half to even and clipped. Alpha of a PIL image is kept.
            strength: 1 for the restored image, 0 for the input; values in between blend the two.
            color_strength: the same for the chroma alone, such as 1 with a low `strength` to remove colour noise and
                keep the grain; by default equal to `strength`.
            detail: how much of the fine structure that was removed from the luma comes back, from 0 to 1.
            value_range: black and white in the image, such as (0, 255) for floats or (0, 4095) for 12-bit values in
                uint16; by default 0 and 1 for floats, and the whole range for integers. The result has the same range.
            progress: called with (tiles done, tiles in total) after each tile.

        Raises:
            NonFiniteInputError: NaN or infinity in the image.
            InvalidInputError: any other kind of image, floats whose median exceeds 4 without a `value_range`, or a
                strength or detail outside [0,1].
            ModelError: the network returned NaN or infinity.
            NotEnoughMemoryError: the image does not fit into the free memory, even in the smallest tiles. Restore the
                file with `kbnet.inference.streaming.restore_streamed`.
        """
        look = Look(strength, color_strength, detail)
        accepted = accept(image, value_range)
        self._restore(accepted.images, look, progress or (lambda done, total: None))
        return accepted.result()

    def together(
        self,
        images: Sequence[Any],
        *,
        strength: float = 1.0,
        color_strength: float | None = None,
        detail: float = 0.0,
        value_range: Range | None = None,
    ) -> list[Any]:
        """Restore images that all have the same size and number of channels; small ones are batched, which is faster.

        Args:
            images: as for `__call__`, all of the same height, width and number of channels.
            strength, color_strength, detail, value_range: as for `__call__`.

        Raises:
            InvalidInputError: as for `__call__`, or the images differ in size; then none is restored.
            NonFiniteInputError, ModelError, NotEnoughMemoryError: as for `__call__`.
        """
        look = Look(strength, color_strength, detail)
        if not images:
            return []
        accepted = [accept(image, value_range) for image in images]
        every = [one for each in accepted for one in each.images]
        if len(sizes := {(one.channels, one.height, one.width) for one in every}) > 1:
            raise InvalidInputError(f"expected images of one size, got {sorted(list(size) for size in sizes)}")
        self._restore(every, look, lambda done, total: None)
        return [each.result() for each in accepted]

    def _restore(self, images: Sequence[Samples], look: Look, progress: Progress) -> None:
        suited = self.suited(images[0].channels)
        if suited.config.channels not in (1, 3):
            raise InvalidInputError(f"{self.name} restores camera raw files only: its network takes a sensor's planes")
        restore_images(suited, images, look.strength if look.is_plain else 1.0, progress)
        for image in () if look.is_plain else images:
            image.mix(look)

    def describe(self) -> dict[str, Any]:
        """The settings, as plain values for reports."""
        return {
            "model": self.name,
            "runtime": self.runner.runtime,
            "device": self.device,
            "dtype": self.dtype,
            "tile": self.tile,
            "overlap": self.tiling(2**16 if self.tile in ("auto", 0) else int(self.tile))[1],
            "context": self.context,
            "window": self.window,
            "ensemble": self.ensemble,
        } | ({"guard": True} if self.guard else {})

    def tiling(self, side: int) -> tuple[int, int, int]:
        """Tile, overlap and multiple for `plan`, with tiles of `side` pixels."""
        multiple = self.config.input_multiple
        side = max(side, multiple)
        usual = DEFAULT_OVERLAP + self.window if self.context == "local" else DEFAULT_OVERLAP
        return side, min(usual, side // 2) if self.overlap is None else self.overlap, multiple

    def sample(self, height: int, width: int, limit: int) -> tuple[int, int, list[tuple[int, int]]]:
        """Side, halo and top-left corners of crops spread evenly over an image; at most `limit` pixels in total."""
        multiple = self.config.input_multiple
        side = min(SAMPLE_SIDE, max(height // multiple, 1) * multiple, max(width // multiple, 1) * multiple)
        halo = SAMPLE_HALO if side == SAMPLE_SIDE else 0
        return side, halo, sample_crops(height, width, side, halo, limit, multiple)

    def gather(self, crops: Image, halo: int) -> Means:
        """Compute an image's averages from crops of it, [B,C,h,w].

        The crops go through the network together, so that the inputs of each averaging site are computed with the
        shared averages of earlier sites, as in the tiles.
        """
        context = Gather(halo)
        self.run(crops, context)
        return context.means

    def run(self, x: Image, context: Context) -> Image:
        """Run the network once over [B,C,H,W]; raise ModelError if the result contains NaN or infinity."""
        y = self.runner(x, context)
        if self.guard:
            return undo_in(x, y)
        if not bool(np.isfinite(y).all()):
            raise ModelError(
                f"the network {self.name} returned NaN or infinity for this image, so there is no result; its weights "
                "are damaged or unsuitable for such values"
            )
        return y


def restore(
    image: Any,
    task: str = "denoise",
    *,
    preset: Literal["fast", "best"] = "fast",
    strength: float = 1.0,
    color_strength: float | None = None,
    detail: float = 0.0,
    value_range: Range | None = None,
) -> Any:
    """Restore an image with the task's default model; see `Restorer.__call__` for the kinds of image.

    Each call loads the model again. For many images, create a `Restorer`.

    Args:
        image: PIL.Image, numpy array or torch tensor.
        task: "denoise" (any noise), "denoise-gaussian" (the papers' task), "derain" or "deblur".
        preset: "best" for the task's larger weights, if it has any.
        strength, color_strength, detail: how the result looks, as for `Restorer.__call__`.
        value_range: black and white in the image, as for `Restorer.__call__`; by default 0 and 1 for floats.

    Raises:
        UnknownModelError: kbnet includes no weights for the task.
        InvalidInputError: the type, shape or dtype of the image isn't supported.

    Example:
        >>> import kbnet, numpy as np
        >>> kbnet.restore(np.zeros((32, 32, 3), np.uint8)).dtype
        dtype('uint8')
    """
    look = Look(strength, color_strength, detail)  # refused before the model is loaded
    restorer = Restorer.from_pretrained(task, preset=preset)
    return restorer(
        image,
        strength=look.strength,
        color_strength=look.color_strength,
        detail=look.detail,
        value_range=value_range,
    )
