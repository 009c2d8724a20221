"""Training data: photos and pairs on disk, batches of random patches, and a loader that prefetches batches.

folder --find_items--> Items --photo_set--> PhotoSet --PhotoPatches.batch(step, ...)--> (clean, degraded)
"""

from kbnet import needs_torch  # noqa: F401
from kbnet.data.blocks import read_blocks
from kbnet.data.layouts import LAYOUTS, TEST_LAYOUTS, Item, find_items, find_test_items, hold_out, list_photos
from kbnet.data.loader import Loader
from kbnet.data.patches import BatchNoise, Degradation, Mixup, PhotoPatches, PhotoSet, pair_of, photo_set
from kbnet.data.photos import decode, decode_all, to_tensor

__all__ = [
    "LAYOUTS",
    "TEST_LAYOUTS",
    "BatchNoise",
    "Degradation",
    "Item",
    "Loader",
    "Mixup",
    "PhotoPatches",
    "PhotoSet",
    "decode",
    "decode_all",
    "find_items",
    "find_test_items",
    "hold_out",
    "list_photos",
    "pair_of",
    "photo_set",
    "read_blocks",
    "to_tensor",
]
