"""Available memory, and the largest tile that fits into it."""

from math import isqrt

from kbnet.inference.ram import free_memory
from kbnet.inference.runners import Runner

SMALLEST_TILE = 128
"""Side of the smallest automatic tile, pixels: a smaller one would be all overlap."""

_FALLBACK_BYTES = 2 * 2**30


def available_bytes(device: str = "cpu") -> int:
    """Free memory of a device in bytes, within a container's limit; a cautious guess where it is unknown."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    free = free_memory()
    return _FALLBACK_BYTES if free is None else free


def auto_tile(runner: Runner, *, buffers: int = 0, row: int = 0) -> int:
    """Side of the largest square tile that the budget and half the free memory allow, at least `SMALLEST_TILE` pixels.

    Args:
        runner: runs the network whose activations a tile takes.
        buffers: bytes of main memory that the work takes besides its tiles.
        row: bytes of main memory for one row of pixels across a row of tiles.
    """
    pixel, budget, free = runner.bytes_per_pixel, runner.budget_bytes, available_bytes(runner.device)
    if runner.device.startswith("cuda"):
        side = side_within(min(budget, free // 2), pixel, 0)
    else:
        side = min(side_within(budget, pixel, 0), side_within(max(free - buffers, 0) // 2, pixel, row))
    return max(SMALLEST_TILE, side // 64 * 64)


def side_within(budget: int, pixel: int, row: int) -> int:
    """The largest side of a tile whose activations and row of tiles stay within a budget.

    Args:
        budget: bytes.
        pixel: bytes of activations for each pixel of the tile.
        row: bytes of a row of tiles for each of its lines.
    """
    # side^2 * pixel + side * row = budget
    return (isqrt(row**2 + 4 * pixel * budget) - row) // (2 * pixel)
