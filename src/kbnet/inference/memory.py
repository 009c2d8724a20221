"""Available memory, and the largest tile that fits into it."""

from math import isqrt

import torch

from kbnet.inference.exported import ExportedNetwork
from kbnet.inference.ram import free_memory
from kbnet.models import KBNetL, KBNetS, Network
from kbnet.nn import fused

BUDGET_BYTES = 768 * 2**20
"""Upper limit for a tile even if more memory is free: larger tiles are not faster, and other programs need memory."""

ENGINE_BUDGET_BYTES = 288 * 2**20
"""The same for networks that run in the engine, which needs a third of the memory for tiles of that size."""

SMALLEST_TILE = 128
"""Side of the smallest automatic tile, pixels: a smaller one would be all overlap."""

_FALLBACK_BYTES = 2 * 2**30


def available_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes, within a container's limit; a cautious guess where it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = free_memory()
    return _FALLBACK_BYTES if free is None else free


def bytes_per_pixel(network: Network | ExportedNetwork, device: torch.device) -> int:
    """Peak activation memory of a forward pass per input pixel in bytes: measured, and rounded up."""
    if isinstance(network, ExportedNetwork):
        return network.bytes_per_pixel
    # Growth of the process during one forward pass, in float32 values per pixel, divided by the width. KBNet-S takes
    # 12.6 to 14.4 layer by layer, and 5.0 to 8.4 where blocks run as one call of the compiled kernels. KBNet-L takes
    # 25 to 28 either way: its first level has twice the width, and its queries, keys and values exist twice. The engine
    # takes 2.9 at the width of the compact networks: two images of the first level, and the input.
    if _by_engine(network, device):
        return round(4 * 3.2 * network.config.width)
    as_one = device.type == "cpu" and fused.refuses_here() is None
    values = 26 if isinstance(network, KBNetL) else 9 if as_one else 15
    return 4 * values * network.config.width


def budget_bytes(network: Network | ExportedNetwork, device: torch.device) -> int:
    """The most memory that a tile takes, however much is free."""
    return ENGINE_BUDGET_BYTES if _by_engine(network, device) else BUDGET_BYTES


def _by_engine(network: Network | ExportedNetwork, device: torch.device) -> bool:
    """Whether the engine runs networks with these settings; it refuses one whose modules were changed afterwards."""
    if not isinstance(network, KBNetS) or device.type != "cpu" or fused.refuses_here() is not None:
        return False
    widest = network.config.width * network.input_multiple
    return widest <= fused.MAX_CHANNELS and network.first.weight.dtype == torch.float32


def auto_tile(network: Network | ExportedNetwork, device: torch.device, *, buffers: int = 0, row: int = 0) -> int:
    """Side of the largest square tile that the budget and half the free memory allow, at least `SMALLEST_TILE` pixels.

    Args:
        network: whose activations a tile takes.
        device: where it runs.
        buffers: bytes of main memory that the work takes besides its tiles.
        row: bytes of main memory for one row of pixels across a row of tiles.
    """
    pixel, budget, free = bytes_per_pixel(network, device), budget_bytes(network, device), available_bytes(device)
    if device.type == "cuda":
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
