"""How much memory there is, and how large a tile fits into it."""

import os
from pathlib import Path

import torch

from kbnet.inference.cgroups import memory_left
from kbnet.inference.exported import ExportedNetwork
from kbnet.models import KBNetL, KBNetS, Network
from kbnet.nn import fused

BUDGET_BYTES = 768 * 2**20
"""Tiles are kept to this much even where there is more: larger ones are not faster, and others want memory too."""

ENGINE_BUDGET_BYTES = 288 * 2**20
"""The same for networks that the engine runs, which takes a third of the memory for tiles of that size."""

_FALLBACK_BYTES = 2 * 2**30


def available_bytes(device: torch.device) -> int:
    """Free memory of a device, within a container's limit; a cautious guess where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_FALLBACK_BYTES]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found = [int(line.split()[1]) * 1024]
    except (OSError, ValueError):
        if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
            found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if (left := memory_left()) is not None:
        found.append(left)
    return min(found)


def bytes_per_pixel(network: Network | ExportedNetwork, device: torch.device) -> int:
    """Peak activation memory of a forward pass over its input pixels, as measured, rounded up."""
    if isinstance(network, ExportedNetwork):
        return network.bytes_per_pixel
    # Measured as the growth of the process over one forward pass: as many float32 values a pixel as this times the
    # width. KBNet-S 12.6 to 14.4 layer by layer, 5.0 to 8.4 where blocks run as one call of the compiled kernels.
    # KBNet-L 25 to 28 either way: its first level has twice the width, and its queries, keys and values exist twice.
    # By the engine 2.9 at the width of the compact networks: two images of the first level, and the input.
    if _by_engine(network, device):
        return round(4 * 3.2 * network.config.width)
    as_one = device.type == "cpu" and fused.refuses_here() is None
    values = 26 if isinstance(network, KBNetL) else 9 if as_one else 15
    return 4 * values * network.config.width


def budget_bytes(network: Network | ExportedNetwork, device: torch.device) -> int:
    """What a tile may take however much memory is free."""
    return ENGINE_BUDGET_BYTES if _by_engine(network, device) else BUDGET_BYTES


def _by_engine(network: Network | ExportedNetwork, device: torch.device) -> bool:
    """Whether networks of these settings run by the engine; one that was changed since may still run otherwise."""
    if not isinstance(network, KBNetS) or device.type != "cpu" or fused.refuses_here() is not None:
        return False
    widest = network.config.width * network.input_multiple
    return widest <= fused.MAX_CHANNELS and network.first.weight.dtype == torch.float32


def auto_tile(network: Network | ExportedNetwork, device: torch.device) -> int:
    """Side of the largest square tile that the budget and half the free memory allow, at least 128 pixels."""
    budget = min(budget_bytes(network, device), available_bytes(device) // 2)
    side = int((budget / bytes_per_pixel(network, device)) ** 0.5)
    return max(128, side // 64 * 64)
