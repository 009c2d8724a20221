"""Camera noise: shot and read noise of the sensor, followed by the camera's processing."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from kbnet.degradations import raw
from kbnet.degradations.base import Degradation, Range, quantise, ranged, share
from kbnet.degradations.blur import mirrored
from kbnet.degradations.jpeg import random_jpeg
from kbnet.degradations.randomness import chance, log_uniform, normal, uniform
from kbnet.inference.look import LUMA

_BORDER = 4  # pixels around the image used by demosaicing and smoothing; even, to keep the Bayer phase


def read_variance(shot: float, deviation: float = 0.0) -> float:
    """Return the variance of read noise for a shot noise gain. They are log-linear over ISO settings (Brooks et al.,
    section 3.1: log read = 2.18 log shot + 1.2, with a standard deviation of 0.26; `deviation` is in units of that).
    """
    return math.exp(2.18 * math.log(shot) + 1.2 + 0.26 * deviation)


def sensor_noise(values: Tensor, shot: float, read: float, generator: Generator) -> Tensor:
    """Return sensor noise to add to linear values (white = 1): normal with variance shot * value + read."""
    deviation = (values.clamp_min(0) * shot + read).sqrt_()
    return torch.randn(values.shape, generator=generator, dtype=values.dtype).mul_(deviation)


def camera_noise(
    image: Tensor,
    camera: raw.Camera,
    shot: float,
    read: float,
    generator: Generator,
    *,
    phase: tuple[int, int] | None = (0, 0),
    malvar: float = 0.0,
    pedestal: bool = False,
) -> Tensor:
    """Add the noise that a camera's sensor would add to a photo, without quantization or compression.

    The image is converted back to linear camera colours, noise is added to their mosaic and demosaiced, and the result
    goes through the camera's processing. The image itself isn't mosaiced, so the result differs from it only by noise:
    the clean photos of real pairs, too, are means of many exposures that all went through the camera.

    Args:
        image: sRGB [3,H,W] in [0,1].
        camera: the camera's processing.
        shot: variance of the noise per unit of signal.
        read: variance of the noise without signal.
        generator: source of the noise.
        phase: phase of the Bayer mosaic; None for a mosaic finer than the pixels (a downscaled photo), whose noise is
            white.
        malvar: from 0, which demosaics bilinearly, to 1, with gradient correction; adaptive methods are in between.
        pedestal: the sensor stores values below black, as most do, so black doesn't clip the noise before demosaicing.

    Returns:
        [3,H,W] in about [0,1].
    """
    signal = raw.unprocess(image, camera)
    if phase is None:
        noisy = (signal + sensor_noise(signal, shot, read, generator)).clamp_(0, 1)
    else:
        black = -1.0 if pedestal else 0.0
        height, width = image.shape[1:]
        masks = raw.bayer_masks(height, width, phase)
        seen = raw.mosaic(signal, masks)
        # the black and white levels clip the noise; the clean signal beyond them is kept
        noise = (seen + sensor_noise(seen, shot, read, generator)).clamp_(black, 1) - seen.clamp(black, 1)
        noisy = signal + _demosaic(noise, masks, malvar)
    return image + raw.process(noisy, camera) - raw.process(signal, camera)


def _demosaic(values: Tensor, masks: Tensor, malvar: float) -> Tensor:
    if malvar == 0:
        return raw.demosaic_bilinear(values, masks)
    corrected = raw.demosaic_malvar(values, masks)
    return corrected if malvar == 1 else torch.lerp(raw.demosaic_bilinear(values, masks), corrected, malvar)


def smooth_noise(noise: Tensor, luma: float, chroma: float, chroma_gain: float = 1.0, grain: float = 0.0) -> Tensor:
    """Blur noise [3,H,W] like a camera's own denoising does: colour more than brightness, which makes it blotchy.

    Args:
        noise: [3,H,W].
        luma, chroma: standard deviation of the Gaussian blur of brightness and colour in pixels; 0 for none.
        chroma_gain: factor applied to the colour noise.
        grain: share of the brightness noise that isn't blurred.
    """
    brightness = torch.einsum("c,chw->hw", torch.tensor(LUMA, dtype=noise.dtype), noise)[None]
    colour = (noise - brightness) * chroma_gain
    smoothed = grain * brightness + (1 - grain) * _gaussian_blur(brightness, luma)
    return smoothed + _gaussian_blur(colour, chroma)


def sharpen_noise(noise: Tensor, amount: float, radius: float) -> Tensor:
    """Apply an unsharp mask to noise [C,H,W]: add `amount` times its detail finer than `radius` pixels."""
    return noise + amount * (noise - _gaussian_blur(noise, radius))


def _gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    if sigma < 0.1:
        return image
    half = math.ceil(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-half, half + 1) / sigma).square())
    line = line / line.sum()
    padded = mirrored(image, half, half)[:, None]
    across = torch.nn.functional.conv2d(padded, line.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(across, line.view(1, 1, -1, 1))[:, 0]


@dataclass(frozen=True, kw_only=True)
class CameraNoise(Degradation):
    """Noise as found in camera files: "Unprocessing" (Brooks et al., arXiv 1811.11127), the camera's own denoising
    (noise in real files is correlated: Plötz & Roth, arXiv 1707.01313, section 3), and JPEG.

    A gray image is processed as three equal channels, and the luma of the result is returned.

    Fields:
        shot: variance of shot noise per unit of linear signal, log-uniform; read noise follows (`read_variance`).
        red_gain, blue_gain: white balance. exposure: gain of all channels.
        colour: strength of the colour correction, from 0 (none) to 1 (that of real cameras).
        gamma: exponent of the file. Camera curves are flatter than 2.2 in the shadows, where noise is then weaker.
        tone: strength of the tone curve.
        malvar_share: share of calls that demosaic with gradient correction instead of bilinearly.
        adaptive_share: share of calls that demosaic by a random mix of both instead, with noise like that of adaptive
            methods.
        pedestal_share: share of calls with a sensor that stores values below black, as most do. Its noise is clipped
            only after demosaicing, so dark areas become darker on average, not brighter, where the curve is steep.
        fine_share: share of calls without a mosaic: white noise, as in a downscaled photo.
        smoothed_share: share of calls in which the camera denoises.
        luma_smoothing, chroma_smoothing: standard deviation of the blur of the remaining noise, in pixels.
        chroma_gain: factor applied to the colour noise in that case.
        grain: share of the brightness noise that the camera's denoising leaves unblurred.
        sharpened_share: share of calls in which the camera sharpens last, which amplifies fine noise;
            sharpening: amount; sharpening_radius: standard deviation of the unsharp mask, in pixels.
        jpeg_share: share of calls that end with JPEG compression; jpeg_quality, subsampled_share: as for `Jpeg`.
    """

    shot: Range = ranged(5e-5, 1.5e-2, within=(1e-7, 0.5))
    red_gain: Range = ranged(1.4, 2.6, within=(0.5, 8))
    blue_gain: Range = ranged(1.4, 2.2, within=(0.5, 8))
    exposure: Range = ranged(1.0, 1.5, within=(1, 16))
    colour: Range = ranged(0, 1, within=(0, 1))
    gamma: Range = ranged(1.0, 2.4, within=(1, 4))
    tone: Range = ranged(0, 2.0, within=(0, 4))
    malvar_share: float = share(0.5)
    adaptive_share: float = share(0.0)
    pedestal_share: float = share(0.7)
    fine_share: float = share(0.1)
    smoothed_share: float = share(0.5)
    luma_smoothing: Range = ranged(0, 0.8, within=(0, 20))
    chroma_smoothing: Range = ranged(0, 2.0, within=(0, 20))
    chroma_gain: Range = ranged(0.4, 1.0, within=(0, 2))
    grain: Range = ranged(0, 0.4, within=(0, 1))
    sharpened_share: float = share(0.0)
    sharpening: Range = ranged(0.2, 1.0, within=(0, 5))
    sharpening_radius: Range = ranged(0.6, 1.5, within=(0, 20))
    jpeg_share: float = share(0.5)
    jpeg_quality: Range = ranged(75, 100, within=(1, 100), whole=True)
    subsampled_share: float = share(0.5)

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        colour = mirrored(clean.expand(3, -1, -1), _BORDER, _BORDER)
        camera = raw.random_camera(
            generator,
            red=self.red_gain,
            blue=self.blue_gain,
            exposure=self.exposure,
            colour=self.colour,
            gamma=self.gamma,
            tone=self.tone,
        )
        shot = log_uniform(self.shot, generator)
        read = read_variance(shot, normal(generator))
        phase = (int(uniform((0, 2), generator)), int(uniform((0, 2), generator)))
        fine, malvar = chance(self.fine_share, generator), float(chance(self.malvar_share, generator))
        if self.adaptive_share and chance(self.adaptive_share, generator):
            malvar = uniform((0, 1), generator)
        noisy = camera_noise(
            colour,
            camera,
            shot,
            read,
            generator,
            phase=None if fine else phase,
            malvar=malvar,
            pedestal=chance(self.pedestal_share, generator),
        )
        if chance(self.smoothed_share, generator):
            luma, chroma = uniform(self.luma_smoothing, generator), uniform(self.chroma_smoothing, generator)
            chroma_gain, grain = uniform(self.chroma_gain, generator), uniform(self.grain, generator)
            noise = smooth_noise(noisy - colour, luma, chroma, chroma_gain, grain)
            noisy = colour + noise
        if self.sharpened_share and chance(self.sharpened_share, generator):
            amount, radius = uniform(self.sharpening, generator), uniform(self.sharpening_radius, generator)
            noisy = colour + sharpen_noise(noisy - colour, amount, radius)
        noisy = noisy[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
        if len(clean) == 1:
            noisy = torch.einsum("c,chw->hw", torch.tensor(LUMA, dtype=noisy.dtype), noisy)[None]
        if chance(self.jpeg_share, generator):
            return random_jpeg(noisy, self.jpeg_quality, self.subsampled_share, generator)
        return quantise(noisy)
