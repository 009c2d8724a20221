"""Synthetic DNG files: a mosaic of a scene-linear picture, with what a raw converter needs to develop it."""

import io

import numpy as np
import tifffile

BLACK, WHITE, NEUTRAL = 512, 16383, (0.5, 1.0, 0.6)
PATTERN = ((0, 1), (1, 2))
# XYZ to linear Rec. 2020 (D65)
TO_REC_2020 = np.array([[1.7166512, -0.3556708, -0.2533663], [-0.6666844, 1.6164812, 0.0157685],
                        [0.0176399, -0.0427706, 0.9421031]])  # fmt: skip


def dng(scene, *, orientation=1, shot=0.0, read=0.0, seed=0, pattern=PATTERN, told=False):
    """A DNG whose camera records linear Rec. 2020 with another neutral point.

    Args:
        scene: [H,W,3], linear Rec. 2020, white 1; even sides.
        orientation: EXIF orientation that the file asks for.
        shot, read: of the noise: its variance is shot * signal + read, for signals from 0 to 1.
        seed: of the noise.
        pattern: colours of 2x2 pixels: 0 for red, 1 for green, 2 for blue.
        told: whether the file says how much noise it has.
    """
    camera = scene * np.array(NEUTRAL)
    mosaic = np.empty(scene.shape[:2])
    for y, row in enumerate(pattern):
        for x, channel in enumerate(row):
            mosaic[y::2, x::2] = camera[y::2, x::2, channel]
    noise = np.random.default_rng(seed).normal(size=mosaic.shape)
    mosaic = mosaic + noise * np.sqrt(shot * np.maximum(mosaic, 0) + read)
    values = np.clip(np.rint(BLACK + mosaic * (WHITE - BLACK)), 0, 65535).astype(np.uint16)
    matrix = np.diag(NEUTRAL) @ TO_REC_2020
    tags = [
        (271, 2, 0, "Kbnet", True),
        (272, 2, 0, "Synthetic", True),
        (274, 3, 1, orientation, True),
        (33421, 3, 2, (2, 2), True),
        (33422, 1, 4, bytes(sum(pattern, ())), True),
        (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        (50707, 1, 4, bytes((1, 1, 0, 0)), True),
        (50708, 2, 0, "Kbnet Synthetic", True),
        (50714, 4, 1, BLACK, True),
        (50717, 4, 1, WHITE, True),
        (50721, 10, 9, _rationals(matrix.ravel()), True),
        (50728, 5, 3, _rationals(NEUTRAL), True),
        (50778, 3, 1, 21, True),
    ]
    if told:
        tags.append((51041, 12, 2, (shot, read), True))
    target = io.BytesIO()
    tifffile.imwrite(target, values, photometric=32803, extratags=tags, metadata=None)
    return target.getvalue()


def _rationals(values):
    return [part for value in values for part in (round(float(value) * 10000), 10000)]
