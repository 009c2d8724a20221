"""Training patches and benchmark sets."""

from kbnet.data.photos import PhotoPatches, decode, list_photos, split, to_tensor

__all__ = ["PhotoPatches", "decode", "list_photos", "split", "to_tensor"]
