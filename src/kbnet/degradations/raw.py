"""Converts sRGB to a camera sensor's linear values and back, after "Unprocessing Images for Learned Raw Denoising"
(Brooks et al., CVPR 2019, arXiv 1811.11127, section 3)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kbnet.degradations.randomness import uniform

# XYZ (D65) to camera, from DNG files of the four cameras of the Darmstadt Noise Dataset, which the paper uses.
_XYZ_TO_CAMERA = torch.tensor(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
_RGB_TO_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


@dataclass(frozen=True)
class Camera:
    """How a camera converts its sensor's values to sRGB.

    Fields:
        gains: white balance gains of red, green and blue, multiplied by the exposure gain.
        to_rgb: colour correction [3,3] from camera colours to linear sRGB. Rows sum to 1.
        gamma: exponent from file values to linear values; about 2.2 for sRGB (section 3.2).
        tone: strength of the S-shaped tone curve: 0 for none, about 1.3 for the paper's curve.
    """

    gains: tuple[float, float, float]
    to_rgb: Tensor
    gamma: float = 2.2
    tone: float = 0.0


def colour_correction(mixture: Tensor, strength: float = 1.0) -> Tensor:
    """Return a colour correction [3,3] with rows that sum to 1, as a mixture of real cameras (section 3.3).

    Args:
        mixture: [4] weights of the cameras, not negative, not all zero.
        strength: 1 for the cameras' correction, 0 for none; other values blend.
    """
    to_camera = torch.einsum("n,nij->ij", mixture / mixture.sum(), _XYZ_TO_CAMERA) @ _RGB_TO_XYZ
    to_camera = to_camera / to_camera.sum(1, keepdim=True)
    to_rgb: Tensor = torch.linalg.inv(to_camera)
    return strength * to_rgb + (1 - strength) * torch.eye(3)


def tone_curve(image: Tensor, strength: float) -> Tensor:
    """Apply an S-shaped curve from [0,1] to [0,1]: a scaled hyperbolic tangent.

    The paper (section 3.1) uses the smoothstep 3x^2 - 2x^3, which has a fixed strength. Cameras differ, so this is a
    family of curves with a closed-form inverse. At strength 1.3, the slope in the middle equals the smoothstep's.
    """
    if strength == 0:
        return image.clamp(0, 1)
    return torch.tanh((image.clamp(0, 1) * 2 - 1).mul_(strength)).mul_(0.5 / math.tanh(strength)).add_(0.5)


def inverse_tone_curve(image: Tensor, strength: float) -> Tensor:
    """Invert `tone_curve` for [C,H,W] in [0,1]."""
    if strength == 0:
        return image.clamp(0, 1)
    linear = torch.atanh((image.clamp(0, 1) * 2 - 1).mul_(math.tanh(strength))).mul_(0.5 / strength).add_(0.5)
    # rounding can give values just below zero, which can't be raised to a power
    return linear.clamp_(0, 1)


def unprocess(image: Tensor, camera: Camera) -> Tensor:
    """Convert sRGB [3,H,W] in [0,1] to linear camera colours before the mosaic, in about [0,1].

    Inverts the tone curve, gamma, colour correction and white balance. The last preserves highlights: a pixel that is
    white in the photo is also white on the sensor, rather than below its clipping point (section 3.4).
    """
    linear = inverse_tone_curve(image, camera.tone).pow_(camera.gamma)
    colours = torch.einsum("ij,jhw->ihw", torch.linalg.inv(camera.to_rgb), linear)
    inverse = 1 / torch.tensor(camera.gains).view(3, 1, 1)
    highlight = colours.mean(0, keepdim=True).sub_(0.9).mul_(10).clamp_(0, 1).square_()
    return colours * torch.maximum(highlight + (1 - highlight) * inverse, inverse)


def process(raw: Tensor, camera: Camera) -> Tensor:
    """Linear camera colours [3,H,W] as sRGB in [0,1]: the steps of `unprocess` forward, clipped as a sensor clips."""
    balanced = (raw * torch.tensor(camera.gains).view(3, 1, 1)).clamp_(0, 1)
    linear = torch.einsum("ij,jhw->ihw", camera.to_rgb, balanced).clamp_(1e-8, 1)
    return tone_curve(linear.pow_(1 / camera.gamma), camera.tone)


def bayer_masks(height: int, width: int, phase: tuple[int, int] = (0, 0)) -> Tensor:
    """Return where a Bayer sensor samples red, green and blue: [3,H,W] of 0 and 1, with red at `phase` of each 2x2."""
    down = (torch.arange(height) + phase[0]) % 2
    across = (torch.arange(width) + phase[1]) % 2
    red = ((1 - down)[:, None] * (1 - across)).float()
    blue = (down[:, None] * across).float()
    return torch.stack([red, 1 - red - blue, blue])


def mosaic(raw: Tensor, masks: Tensor) -> Tensor:
    """Return the value [H,W] that the sensor samples at each pixel of [3,H,W]."""
    return (raw * masks).sum(0)


_BILINEAR = (
    torch.tensor(
        [
            [[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]],
            [[[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]],
            [[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]],
        ]
    )
    / 4
)


def demosaic_bilinear(values: Tensor, masks: Tensor) -> Tensor:
    """Demosaic [H,W], sampled with `masks`, to [3,H,W]: missing values are the mean of their neighbours. Linear.

    Neighbours outside the image count as zero, so pass an image with a border of two more pixels.
    """
    return torch.nn.functional.conv2d((values * masks)[None], _BILINEAR, padding=1, groups=3)[0]


_CROSS = torch.tensor([[0.0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]])
_ALONG = torch.tensor([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]])
_DIAGONAL = torch.tensor(
    [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
)
_MALVAR = torch.stack([_CROSS, _ALONG, _ALONG.T, _DIAGONAL])[:, None] / 8


def demosaic_malvar(values: Tensor, masks: Tensor) -> Tensor:
    """Demosaic like `demosaic_bilinear`, corrected by the gradients of the sampled colour (Malvar, He & Cutler,
    "High-quality linear interpolation for demosaicing of Bayer-patterned color images", ICASSP 2004). Linear.
    """
    cross, along, down, diagonal = torch.nn.functional.conv2d(values[None, None], _MALVAR, padding=2)[0]
    red, green, blue = masks
    # green pixels in rows that contain red
    red_rows = green * red.amax(1, keepdim=True)
    blue_rows = green - red_rows
    return torch.stack(
        [
            red * values + red_rows * along + blue_rows * down + blue * diagonal,
            green * values + (red + blue) * cross,
            blue * values + blue_rows * along + red_rows * down + red * diagonal,
        ]
    )


def random_camera(
    generator: Generator,
    *,
    red: tuple[float, float] = (1.9, 2.4),
    blue: tuple[float, float] = (1.5, 1.9),
    exposure: tuple[float, float] = (1.0, 1.5),
    colour: tuple[float, float] = (0.0, 1.0),
    gamma: tuple[float, float] = (2.2, 2.2),
    tone: tuple[float, float] = (0.0, 1.3),
) -> Camera:
    """A camera of uniformly random gains (by default those of section 3.4), colours (`colour_correction`) and tone."""
    matrix = colour_correction(torch.rand(4, generator=generator) + 1e-6, uniform(colour, generator))
    gain = uniform(exposure, generator)
    gains = (gain * uniform(red, generator), gain, gain * uniform(blue, generator))
    return Camera(gains, matrix, uniform(gamma, generator), uniform(tone, generator))
