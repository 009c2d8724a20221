"""Contexts of `kbnet.nn.context` as graph operators: where averages over the image come from.

WholeInput   FullFrame: averages over each image of the batch separately
PooledInput  Gather and Shared in one graph: outputs the averages of the batch, or takes those of a whole image as input
Window       Local: averages over a window around each pixel
"""

import math
from collections.abc import Sequence

from kbnet.errors import InvalidInputError
from kbnet.export.builder import Builder
from kbnet.nn import Local


class WholeInput:
    """Averages over each image of the batch separately."""

    def __init__(self, builder: Builder) -> None:
        self.b = builder

    def begin(self, x: str) -> None:
        """Start with the padded image [B,C,H,W], before the first layer."""

    def grid(self, u: str, level: int) -> tuple[str, int]:
        """Return means [B,C,h,w] of features at a level (0 = full resolution), and the side of a cell in pixels."""
        return self.b.node("ReduceMean", u, self.b.ints(2, 3)), 1

    def counted(self, flat: str, like: str, level: int) -> str:
        """Return features [B,heads,c,H*W] with zeros for pixels that averages leave out."""
        return flat

    def pixels(self, like: str, level: int) -> str:
        """Return the number of pixels of [B,C,H,W] that averages include, as one float32 value."""
        b = self.b
        height, width = b.lengths(like)
        return b.node("Cast", b.node("Mul", height, width), to=1)

    def share(self, mean: str, shape: Sequence[int]) -> str:
        """Take the average [B,*shape] of this input and return the one to use."""
        return mean


class PooledInput(WholeInput):
    """Averages over the whole batch, or given ones if the input `use_context` is true; an output in both cases."""

    def __init__(self, builder: Builder) -> None:
        super().__init__(builder)
        self.shapes: list[tuple[int, ...]] = []
        self.used: list[str] = []
        self._place = 0
        self._height = ""
        self._masks: dict[int, tuple[str, str]] = {}

    def begin(self, x: str) -> None:
        self._height = self.b.lengths(x)[0]

    def grid(self, u: str, level: int) -> tuple[str, int]:
        b = self.b
        rows, cols = (b.node("Div", mask, b.node("ReduceSum", mask)) for mask in self._mask(u, level))
        mean = b.node("MatMul", rows, b.node("MatMul", u, cols))
        return mean, 1

    def counted(self, flat: str, like: str, level: int) -> str:
        b = self.b
        rows, cols = self._mask(like, level)
        mask = b.node("MatMul", b.node("Transpose", rows, perm=[1, 0]), b.node("Transpose", cols, perm=[1, 0]))
        return b.node("Mul", flat, b.node("Reshape", mask, b.ints(1, 1, 1, -1)))

    def pixels(self, like: str, level: int) -> str:
        b = self.b
        rows, cols = (b.node("ReduceSum", mask, b.ints(0, 1), keepdims=0) for mask in self._mask(like, level))
        return b.node("Mul", rows, cols)

    def share(self, mean: str, shape: Sequence[int]) -> str:
        b = self.b
        size = math.prod(shape)
        place = (b.ints(self._place), b.ints(self._place + size), b.ints(0))
        given = b.node("Reshape", b.node("Slice", "context", *place), b.ints(1, *shape))
        used = b.node("Where", "use_context", given, b.node("ReduceMean", mean, b.ints(0)))
        self.used.append(b.node("Reshape", used, b.ints(-1)))
        self.shapes.append((1, *shape))
        self._place += size
        return used

    def _mask(self, u: str, level: int) -> tuple[str, str]:
        """Return masks of rows [1,H] and columns [W,1]: 0 in the halo, 1 elsewhere."""
        b = self.b
        if level not in self._masks:
            height, width = b.lengths(u)
            # `halo` is in input pixels; scale it to this level.
            halo = b.node("Div", b.node("Mul", "halo", height), self._height)
            masks = []
            for length in (height, width):
                index = b.indices(length)
                inside = b.node(
                    "And", b.node("GreaterOrEqual", index, halo), b.node("Less", index, b.node("Sub", length, halo))
                )
                masks.append(b.node("Cast", inside, to=1))
            self._masks[level] = (
                b.node("Reshape", masks[0], b.ints(1, -1)),
                b.node("Reshape", masks[1], b.ints(-1, 1)),
            )
        return self._masks[level]


class Window(WholeInput):
    """Sliding means over a window, as products with band matrices, so that the graph needs no fixed sizes or branches.

    Args:
        window: side of the window in input pixels.
        multiple: multiple of the padded input's sides; at every level, the side of a cell must divide it.
        levels: number of times the network halves the resolution.

    Raises:
        InvalidInputError: cells don't divide the input at every level.
    """

    def __init__(self, builder: Builder, window: int, multiple: int, levels: int) -> None:
        super().__init__(builder)
        self.window = window
        self._bands: dict[int, tuple[str, str]] = {}
        for level in range(levels + 1):
            cell, _ = self.sides(level)
            if (multiple >> level) % cell or window % (1 << level):
                raise InvalidInputError(
                    f"can't export a window of {window} pixels with this network; use one whose eighth divides "
                    f"{multiple}, such as 64, or 0 to average over the whole input"
                )

    def sides(self, level: int) -> tuple[int, int]:
        """Return the side of a cell in pixels, and of the window in cells, as in `kbnet.nn.Local.grid`."""
        window = max(1, self.window >> level)
        cell = max(1, window // Local.CELLS)
        return cell, window // cell | 1

    def grid(self, u: str, level: int) -> tuple[str, int]:
        b = self.b
        cell, window = self.sides(level)
        cells = b.node("AveragePool", u, kernel_shape=[cell, cell], strides=[cell, cell]) if cell > 1 else u
        if level not in self._bands:
            height, width = b.lengths(cells)
            cols = b.node("Transpose", self._band(width, window), perm=[1, 0])
            self._bands[level] = self._band(height, window), cols
        rows, cols = self._bands[level]
        return b.node("MatMul", rows, b.node("MatMul", cells, cols)), cell

    def _band(self, length: str, window: int) -> str:
        """Return a matrix [n,n] whose row i averages `window` neighbours of i, shifted inwards at the ends as in
        `sliding_mean`.
        """
        b = self.b
        size = b.node("Min", b.ints(window), length)
        index = b.indices(length)
        before = b.node("Div", b.node("Sub", size, b.ints(1)), b.ints(2))
        start = b.node("Max", b.node("Sub", index, before), b.ints(0))
        start = b.node("Min", start, b.node("Sub", length, size))
        start = b.node("Unsqueeze", start, b.ints(1))
        inside = b.node(
            "And", b.node("GreaterOrEqual", index, start), b.node("Less", index, b.node("Add", start, size))
        )
        return b.node("Div", b.node("Cast", inside, to=1), b.node("Cast", size, to=1))
