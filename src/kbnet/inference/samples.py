"""Images as the network reads and writes them: some pixels at a time as float32, whatever type they are stored in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kbnet.engine.contexts import Image
from kbnet.inference.look import LUMA, Look, mix

if TYPE_CHECKING:
    from torch import Tensor

Range = tuple[float, float]
Index = NDArray[np.intp]

_LINES = 64  # rows that are converted to their own type at a time


class Readable(Protocol):
    """An image of `channels` x `height` x `width` that can be read in parts; values nominally in [0,1]."""

    @property
    def channels(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, rows: Index, cols: Index) -> Image:
        """The pixels where these rows and columns meet, float32 [1,C,rows,cols]; not to be written to."""


class Samples(Readable, Protocol):
    """An image that can be read in parts, and its result, which is written in rows."""

    @property
    def result_bytes(self) -> int:
        """Memory that the result takes once it is written."""

    def write(self, top: int, values: Image) -> None:
        """Store rows [1,C,h,width] of the result from row `top` down; integers are rounded half to even and clipped."""

    def mix(self, look: Look) -> None:
        """Apply a look to the finished result."""


@dataclass(frozen=True)
class ArraySamples:
    """A numpy array [H,W,C] and an array of the same shape and dtype for its result.

    Attributes:
        array: uint8, uint16 or floating.
        out: where the result goes.
        limits: black and white of both.
    """

    array: NDArray[Any]
    out: NDArray[Any]
    limits: Range

    @property
    def channels(self) -> int:
        return int(self.array.shape[2])

    @property
    def height(self) -> int:
        return int(self.array.shape[0])

    @property
    def width(self) -> int:
        return int(self.array.shape[1])

    @property
    def result_bytes(self) -> int:
        return self.out.nbytes

    def read(self, rows: Index, cols: Index) -> Image:
        down, across = _sliced(rows), _sliced(cols)
        # One axis after the other, slices first: they copy nothing.
        part = self.array[down][:, across] if isinstance(down, slice) else self.array[:, across][down]
        values: Image = np.array(part.transpose(2, 0, 1)[None], dtype=np.float32, order="C")
        _scale(values, self.limits)
        return values

    def write(self, top: int, values: Image) -> None:
        whole = self.out.dtype.kind == "u"
        array = unscaled(values.clip(0, 1) if whole else values, self.limits)[0].transpose(1, 2, 0)
        if whole:
            # to the given range by `clip`, and here to what the type holds
            array = np.clip(np.rint(array), 0, np.iinfo(self.out.dtype).max)
        self.out[top : top + len(array)] = array

    def mix(self, look: Look) -> None:
        mix(self.array, self.out, look, self.limits)


@dataclass(frozen=True)
class TensorSamples:
    """A floating tensor [C,H,W] and a tensor of the same shape, dtype and device for its result.

    Attributes:
        tensor: the image.
        out: where the result goes.
        limits: black and white of both.
    """

    tensor: "Tensor"
    out: "Tensor"
    limits: Range

    @property
    def channels(self) -> int:
        return self.tensor.shape[0]

    @property
    def height(self) -> int:
        return self.tensor.shape[1]

    @property
    def width(self) -> int:
        return self.tensor.shape[2]

    @property
    def result_bytes(self) -> int:
        return self.out.nbytes

    def read(self, rows: Index, cols: Index) -> Image:
        import torch

        part = self.tensor.detach()
        for axis, index in ((1, rows), (2, cols)):
            found = _sliced(index, forwards=True)
            if isinstance(found, slice):
                part = part[:, found] if axis == 1 else part[:, :, found]
            else:
                part = part.index_select(axis, torch.from_numpy(found).to(part.device))
        values: Image = part.float().cpu().numpy()[None]
        if self.limits != (0.0, 1.0):
            values = values.copy()  # it may be the caller's memory
            _scale(values, self.limits)
        return values

    def write(self, top: int, values: Image) -> None:
        import torch

        rows = np.ascontiguousarray(unscaled(values, self.limits)[0])
        self.out[:, top : top + values.shape[2]] = torch.from_numpy(rows).to(self.out)

    def mix(self, look: Look) -> None:
        import torch

        before, after = (one.float().permute(1, 2, 0).cpu().numpy() for one in (self.tensor, self.out))
        mixed = after.copy()
        mix(before, mixed, look)
        self.out.copy_(torch.from_numpy(mixed).permute(2, 0, 1))


@dataclass(frozen=True)
class Turned:
    """An image flipped and rotated as `kbnet.inference.tiles.turn` does it, without a copy of it."""

    image: Readable
    index: int

    @property
    def channels(self) -> int:
        return self.image.channels

    @property
    def height(self) -> int:
        return self.image.width if self.index % 2 else self.image.height

    @property
    def width(self) -> int:
        return self.image.height if self.index % 2 else self.image.width

    def read(self, rows: Index, cols: Index) -> Image:
        if self.index % 2:
            rows, cols = cols, rows
        if self.index in (2, 3, 6, 7):
            rows = self.image.height - 1 - rows
        if self.index in (1, 2, 4, 7):
            cols = self.image.width - 1 - cols
        part = self.image.read(rows, cols)
        return part.swapaxes(2, 3) if self.index % 2 else part


def _scale(values: Image, limits: Range) -> None:
    """From a range whose black and white are `limits` to [0,1], in place."""
    low, high = limits
    if low != 0:
        values -= np.float32(low)
    if high - low != 1:
        values /= np.float32(high - low)


def unscaled(values: Image, limits: Range) -> Image:
    """From [0,1] to a range whose black and white are `limits`."""
    low, high = limits
    return values if limits == (0.0, 1.0) else values * np.float32(high - low) + np.float32(low)


def _sliced(index: Index, *, forwards: bool = False) -> slice | Index:
    """The slice that selects the same, if there is one; indices are those of an axis, plain or mirrored."""
    first, last, steps = int(index[0]), int(index[-1]), len(index) - 1
    if last - first == steps:
        return slice(first, last + 1)
    if first - last == steps and not forwards:
        return slice(first, last - 1 if last else None, -1)
    return index


def fitted(values: Image, channels: int) -> Image:
    """Colour or gray values [1,1|3,h,w] as a network of 1 or 3 channels takes them.

    Gray is replicated for a colour network. A gray network gets the luma of colour.
    """
    if values.shape[1] == channels:
        return values
    if channels == 3:
        return np.repeat(values, 3, axis=1)
    luma: Image = (values * np.array(LUMA, np.float32)[:, None, None]).sum(1, keepdims=True)
    return luma


def finish(image: Samples, top: int, restored: Image, strength: float) -> None:
    """Write rows of a network's output [1,1|3,h,width] as the image's result.

    What a colour network made of gray is averaged. The change that a gray network made to the luma is added to the
    three colours, which keeps the chroma.

    Args:
        image: whose result is written.
        top: the row of the first.
        restored: as for `fitted`, of the network's channels.
        strength: 1 for the restored image, 0 for the input, values in between blend the two.
    """
    cols = np.arange(image.width)
    same = image.channels == restored.shape[1]
    for first in range(0, restored.shape[2], _LINES):
        result = restored[:, :, first : first + _LINES]
        if strength != 1 or not (same or image.channels == 1):
            original = image.read(np.arange(top + first, top + first + result.shape[2]), cols)
        if not same:
            result = result.mean(1, keepdims=True) if image.channels == 1 else original + (result - fitted(original, 1))
        if strength != 1:
            result = original + np.float32(strength) * (result - original)
        image.write(top + first, result)
