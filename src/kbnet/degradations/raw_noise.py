"""The noise of a camera's sensor before anything is done to it, for networks that restore camera raw files."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad, pixel_shuffle

from kbnet.degradations.base import Degradation, Range, check_image, quantise, ranged
from kbnet.degradations.camera import read_variance
from kbnet.degradations.randomness import chance, log_uniform
from kbnet.degradations.raw import Camera, bayer_masks, demosaic_malvar, process, random_camera, unprocess
from kbnet.errors import InvalidInputError
from kbnet.imaging.sensor import COLOURS, SensorNoise
from kbnet.inference.look import LUMA


@dataclass(frozen=True, kw_only=True)
class RawNoise(Degradation):
    """Shot and read noise on the planes of a Bayer sensor.

    The photo is converted to a sensor's values as in arXiv 1811.11127, section 3. For training, `pair` returns the
    sensor's planes with and without noise, stabilised as in `kbnet.imaging.sensor`. A plain call returns the photo with
    the noise that it has after it is developed.

    Fields:
        exposure: gain of the exposure in addition to the white balance: higher values make a darker sensor image.
        shot: shot noise, log-uniform: its variance is shot * signal, for signals from 0 to 1.
        read_factor: variance of the read noise, log-uniform, relative to the paper's for this shot noise
            (`kbnet.degradations.camera.read_variance`).
        told_factor: variance of the noise that the network is told, log-uniform, relative to the true one, because
            it is known only roughly.
    """

    exposure: Range = ranged(1, 2.5, within=(1, 16))
    shot: Range = ranged(1e-4, 5e-2, within=(1e-6, 1))
    read_factor: Range = ranged(0.5, 2, within=(1e-3, 1e3))
    told_factor: Range = ranged(0.5, 2, within=(0.1, 10))

    @property
    def channels(self) -> int:
        """Channels of the images of `pair`: the sensor's colours and the noise."""
        return COLOURS + 1

    def pair(self, clean: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return what a network should compute, and what it gets, from a photo [3,H,W] in [0,1].

        Returns:
            Two stacks of planes [5,H//2,W//2]. The last plane is the standard deviation of the noise of the others,
            the same everywhere.

        Raises:
            InvalidInputError: as for a call.
        """
        check_image(clean)
        if clean.shape[0] != 3 or min(clean.shape[1:]) < 2:
            raise InvalidInputError(
                f"raw-noise trains on colour photos of at least 2x2 pixels, got a shape of {list(clean.shape)}"
            )
        height, width = (side // 2 * 2 for side in clean.shape[1:])
        planes, noise, _ = self._sensor(clean[:, :height, :width], generator)
        noisy = planes if chance(self.clean_share, generator) else _with_noise(planes, noise, generator)
        error = log_uniform(self.told_factor, generator)
        told = SensorNoise(noise.shot * error, noise.read * error)
        level = planes.new_full((1, *planes.shape[1:]), told.level)
        wanted, given = (torch.cat([told.stabilise(values), level]) for values in (planes, noisy))
        return wanted, given

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        """Adds only the noise, not the blur of demosaicing, as `CameraNoise` does."""
        height, width = clean.shape[1:]
        colours = pad(clean.expand(3, -1, -1)[None], (0, width % 2, 0, height % 2), mode="replicate")[0]
        planes, noise, camera = self._sensor(colours, generator)
        masks = bayer_masks(*colours.shape[1:])
        noisy, pure = (
            process(demosaic_malvar(pixel_shuffle(values, 2)[0], masks), camera)[:, :height, :width]
            for values in (_with_noise(planes, noise, generator), planes)
        )
        change = noisy - pure
        if len(clean) == 1:
            change = torch.einsum("c,chw->hw", torch.tensor(LUMA), change)[None]
        return quantise(clean + change)

    def _sensor(self, clean: Tensor, generator: Generator) -> tuple[Tensor, SensorNoise, Camera]:
        """The planes [4,H/2,W/2] without noise, the noise to add, and the camera that develops them."""
        camera = random_camera(generator, exposure=self.exposure)
        red, green, blue = unprocess(clean, camera).clamp_(0, 1)
        planes = torch.stack([red[::2, ::2], green[::2, 1::2], green[1::2, ::2], blue[1::2, 1::2]])
        shot = log_uniform(self.shot, generator)
        read = read_variance(shot) * log_uniform(self.read_factor, generator)
        return planes, SensorNoise(shot, read), camera


def _with_noise(planes: Tensor, noise: SensorNoise, generator: Generator) -> Tensor:
    """Clipped at white. Files store values below black, because their black is above zero."""
    gaussian = torch.randn(planes.shape, generator=generator)
    return (planes + gaussian * (noise.shot * planes + noise.read).sqrt()).clamp_(max=1)
