"""Make the example photos of the web page, one per task, in src/kbnet/server/static.

The photos come with scikit-image: a cat (CC0, Stefan van der Walt), a cup of coffee (CC0, Rachel Michetti) and a rocket
(CC0, SpaceX). The page shows the examples of its tasks.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from kbnet.degradations import create_degradation
from kbnet.imaging import Photo, encode
from kbnet.metrics import to_uint8

FOLDER = Path(__file__).parents[1] / "src" / "kbnet" / "server" / "static"
_STILL = {"turning_share": 0, "object_share": 0, "highlight_gain": 1}


def degraded(clean: NDArray[np.uint8], kind: str, **settings: object) -> NDArray[np.uint8]:
    """A photo [H,W,3] with the degradation `kind`."""
    channels = torch.from_numpy(clean.transpose(2, 0, 1) / np.float32(255))
    result = create_degradation(kind, **settings)(channels, torch.Generator().manual_seed(1))
    return to_uint8(result.permute(1, 2, 0).numpy())


def main() -> None:
    cat, coffee, rocket = data.chelsea(), data.coffee(), data.rocket()
    shot = {"shot": 6e-3, "smoothed_share": 1, "jpeg_share": 0}
    pictures = {
        "denoise": degraded(coffee[60:300, 140:460], "camera-noise", **shot),
        "derain": degraded(rocket[:240, 160:480], "rain", light_share=0, short_share=0, jpeg_share=0),
        "deblur": degraded(cat[20:260, 60:380], "defocus", radius=3, varying_share=0, layer_share=0),
    }
    for task, pixels in pictures.items():
        data_ = encode(Photo(np.ascontiguousarray(pixels), format="jpeg"), quality=90)
        (FOLDER / f"example-{task}.jpg").write_bytes(data_)
        print(f"example-{task}.jpg, {len(data_) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
