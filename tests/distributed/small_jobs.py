"""Pictures and a network for jobs of a second."""

import numpy as np
import torch

from kbnet.imaging import Photo, write_photo
from kbnet.models import create_model, save_file


def make_pictures(folder, names, height=24, width=32):
    """Noise in files of these names, each of its own, in folders made if needed."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        write_photo(Photo(pixels), folder / name)
    return folder


def make_weights(path):
    """A weights file of a network with ten thousand parameters."""
    torch.manual_seed(0)
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    save_file(network, path)
    return path
