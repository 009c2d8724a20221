"""Camera raw files: the noise is removed from what the sensor recorded, which is then developed again.

A sensor's noise is known and independent from pixel to pixel. Developing spreads and stretches it.
"""

from collections.abc import Callable

import numpy as np

from kbnet.imaging import Photo, Pixels, raw
from kbnet.imaging.sensor import COLOURS, Mosaic, SensorNoise, estimate_noise
from kbnet.inference.look import Look, mix
from kbnet.inference.restorer import Restorer
from kbnet.inference.samples import ArraySamples
from kbnet.inference.whole import restore_images

# Noise levels (`SensorNoise.level`): of a shot noise of 1e-5, which is left alone, and of 5e-5, the least in training.
_FAINTEST, _TRAINED = 0.0016, 0.0035

Progress = Callable[[int, int], None]


def restore_raw(restorer: Restorer, photo: Photo, progress: Progress, look: Look | None = None) -> Pixels | None:
    """Restore a camera raw file from what its sensor recorded.

    Args:
        restorer: of weights for a sensor's planes, or one whose `raw` is.
        photo: as read from the file.
        progress: called with (tiles done, tiles in total).
        look: how much of the change the result gets; by default all.

    Returns:
        The restored pixels, as developed as those of the photo. None if there is no Restorer for raw files, or if the
        sensor has no Bayer filter: then restore the developed photo.
    """
    own = restorer if restorer.config.channels == COLOURS + 1 else restorer.raw
    if photo.undeveloped is None or own is None:
        return None
    name = str(photo.source or "the image data")
    mosaic = raw.mosaic(photo.undeveloped, name)
    if mosaic is None:
        return None
    pixels = raw.develop(photo.undeveloped, name, restore_mosaic(own, mosaic, progress))
    if look is not None and look != Look():
        mix(photo.pixels, pixels, look)
    return pixels


def restore_mosaic(restorer: Restorer, mosaic: Mosaic, progress: Progress = lambda done, total: None) -> Mosaic:
    """Remove the noise of a mosaic.

    Args:
        restorer: for a sensor's planes: its network has 5 channels.
        mosaic: what the sensor recorded.
        progress: called with (tiles done, tiles in total).
    """
    planes = mosaic.planes()
    noise = mosaic.told or estimate_noise(planes)
    given = np.empty((*planes.shape[:2], COLOURS + 1), np.float32)
    given[:, :, :COLOURS], given[:, :, COLOURS] = noise.stabilise(planes), noise.level
    restored = np.empty_like(given)
    restore_images(restorer, [ArraySamples(given, restored, (0.0, 1.0))], 1.0, progress)
    change = noise.signal(restored[:, :, :COLOURS]) - planes
    return mosaic.replaced(planes + np.float32(_share(noise)) * change)


def _share(noise: SensorNoise) -> float:
    """How much of the network's change is used: less for less noise than it was trained on, where it can do harm."""
    return min(max((noise.level - _FAINTEST) / (_TRAINED - _FAINTEST), 0.0), 1.0)
