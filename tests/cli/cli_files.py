"""Small pictures on disk, and what is in a folder."""

from pathlib import Path

import numpy as np
from PIL import Image

import kbnet

SOURCE = Path(kbnet.__file__).parents[1]


def pixels(height=24, width=32, channels=3, dtype=np.uint8, seed=0):
    """Noise of the whole range, [H,W,channels]."""
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top + 1, (height, width, channels), dtype=dtype)


def picture(path, *size, **options):
    """Write such a picture in the format its name says, in a folder made if needed, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(*size, **options)).save(path)
    return path


def names(folder):
    """Every file below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
