"""Motion blur: random camera trajectories, camera rotation, which varies over the image, and moving objects."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor

from kbnet.degradations.base import Degradation, Range, quantise, ranged, share
from kbnet.degradations.blur import layered_blur, region_weights, to_srgb, varying_blur
from kbnet.degradations.defocus import lit, object_mask
from kbnet.degradations.kernels import frames_kernel, load_kernels, path_kernel
from kbnet.degradations.randomness import chance, log_uniform, normal, smooth_field, uniform
from kbnet.errors import InvalidInputError

_STEPS = 48
_SMOOTH = 0.1  # largest shake of a path over a few frames of video
_REGION = 128  # approximate distance in pixels between kernels of a rotating camera


def random_trajectory(
    length: float, generator: Generator, *, shake: float = 0.2, pull: float = 0.1, impulses: float = 0.0
) -> Tensor:
    """Return a random path of the camera during the exposure, after Boracchi & Foi, "Modeling the performance of image
    restoration from motion blur", IEEE TIP 2012, section III.

    A point moves at constant speed in 48 steps. In each step, inertia keeps its velocity, to which a random shake, a
    pull towards the start and, occasionally, an impulse of a correcting hand, which reverses it, are added.

    Args:
        length: length of the path in pixels.
        generator: source of all random numbers.
        shake: standard deviation of the random velocity change per step, relative to the speed; 0 gives a straight
            line unless there are impulses.
        pull: velocity change towards the start per step at a distance of `length`, relative to the speed.
        impulses: expected number of impulses in the whole path.

    Returns:
        [49,2] offsets down and across in pixels, starting at 0.
    """
    angle = uniform((0, 2 * math.pi), generator)
    down, across = math.sin(angle), math.cos(angle)
    numbers = torch.randn(_STEPS, 2, generator=generator).tolist()
    jolts = torch.rand(_STEPS, 2, generator=generator).tolist()
    y = x = 0.0
    path = [(y, x)]
    for (dy, dx), (jolt, turn) in zip(numbers, jolts, strict=True):
        if jolt * _STEPS < impulses:
            angle = math.atan2(down, across) + math.pi + (turn - 0.5) * math.pi
            down, across = math.sin(angle), math.cos(angle)
        down += shake * dy - pull * y
        across += shake * dx - pull * x
        speed = math.hypot(down, across) or 1.0
        down, across = down / speed, across / speed
        y, x = y + down / _STEPS, x + across / _STEPS
        path.append((y, x))
    return torch.tensor(path) * length


def turning_kernels(
    path: Tensor, turn: Tensor, zoom: Tensor, points: Tensor, kernel_of: Callable[[Tensor], Tensor] = path_kernel
) -> Tensor:
    """Return the kernels at some points of the image for a camera that also rotates about its axis and moves forward.

    Uses the geometry of Whyte et al., "Non-uniform deblurring for shaken images" (IJCV 2012), section 2, to first
    order: a point at p moves by path + turn x p + zoom p. Each kernel is centred separately, so that the sharp image is
    aligned with the blurred one everywhere.

    Args:
        path: [T,2] translation in pixels.
        turn: [T] angles in radians; zoom: [T] relative changes of size.
        points: [P,2] offsets down and across from the axis in pixels.
        kernel_of: returns the kernel [k,k] of a path [T,2].

    Returns:
        [P,k,k].
    """
    down, across = points[:, None, 0], points[:, None, 1]
    moved = torch.stack([turn * across + zoom * down, zoom * across - turn * down], -1)
    paths = path + moved
    kernels = [kernel_of(one) for one in paths]
    side = max(kernel.shape[0] for kernel in kernels)
    return torch.stack([torch.nn.functional.pad(k, [(side - k.shape[0]) // 2] * 4) for k in kernels])


@dataclass(frozen=True, kw_only=True)
class Motion(Degradation):
    """Blur of a camera that moves (Boracchi & Foi 2012) or rotates (Whyte et al. 2012), or of a moving object.

    Fields:
        length: length of the camera's path in pixels. The kernel of a curved path is smaller.
        shake, pull: as for `random_trajectory`.
        impulses: expected number of sudden reversals.
        turning_share: share of calls in which the camera also rotates, so that the kernel varies over the image.
        turning: displacement of the corners by the rotation, relative to `length`.
        object_share: share of calls in which an object in the foreground moves independently.
        scale: size of such an object in pixels, log-uniform.
        linear_share: share of calls that blur in linear light, as cameras do, instead of in sRGB, as benchmarks with
            given kernels do.
        highlight_gain: in linear light, light of clipped areas relative to white; creates bright traces.
        frames_share: share of calls that average sharp frames instead, as in images from high-speed video (Nah et al.,
            CVPR 2017): sRGB values, few distinct points along a smooth path, no pauses.
        frames: number of frames, rounded to an odd number.
        kernels: file or folder for `load_kernels`, relative to the working folder.
        kernels_share: share of calls that use one of those, randomly flipped and rotated, instead of a random path.
    """

    length: Range = ranged(0, 32, within=(0, 200))
    shake: Range = ranged(0, 0.4, within=(0, 10))
    pull: Range = ranged(0, 0.3, within=(0, 10))
    impulses: Range = ranged(0, 1.5, within=(0, _STEPS))
    turning_share: float = share(0.3)
    turning: Range = ranged(0, 0.7, within=(0, 4))
    object_share: float = share(0.15)
    scale: Range = ranged(48, 256, within=(2, 4096))
    linear_share: float = share(0.6)
    highlight_gain: Range = ranged(1, 2, within=(1, 20))
    frames_share: float = share(0.0)
    frames: Range = ranged(7, 13, within=(1, _STEPS))
    kernels: str | None = None
    kernels_share: float = share(0.0)
    _loaded: tuple[Tensor, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.kernels is None) != (self.kernels_share == 0):
            raise InvalidInputError("expected either both kernels and a kernels_share above 0, or neither")
        if self.kernels is not None:
            object.__setattr__(self, "_loaded", load_kernels(Path(self.kernels)))

    @property
    def margin(self) -> int:
        # a straight path on which the camera dwells at one end, plus the displacement of corners by a rotation
        path = self.length[1] * (0.8 + (self.turning[1] / 2 if self.turning_share else 0))
        return max(math.ceil(path), *(kernel.shape[0] // 2 for kernel in self._loaded), 0)

    def _degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        height, width = clean.shape[1:]
        video = chance(self.frames_share, generator)
        linear = not video and chance(self.linear_share, generator)
        light = lit(clean, uniform(self.highlight_gain, generator)) if linear else clean
        whole = torch.ones(1, height, width)
        if chance(self.kernels_share, generator):
            blurred = varying_blur(light, self._given(generator)[None], whole)
        elif chance(self.object_share, generator):
            mask = object_mask(clean, log_uniform(self.scale, generator), generator)
            front, back = (self._exposure(video, generator)(self._path(video, generator)) for _ in range(2))
            blurred = layered_blur(light, mask, (back[None], whole), (front[None], whole))
        elif chance(self.turning_share, generator):
            blurred = varying_blur(light, *self._turned(height, width, video, generator))
        else:
            kernel = self._exposure(video, generator)(self._path(video, generator))
            blurred = varying_blur(light, kernel[None], whole)
        blurred.clamp_(0, 1)
        return quantise(to_srgb(blurred) if linear else blurred)

    def _exposure(self, video: bool, generator: Generator) -> Callable[[Tensor], Tensor]:
        """Return the function that makes the kernel of a path."""
        if video:
            return partial(frames_kernel, count=2 * round((uniform(self.frames, generator) - 1) / 2) + 1)
        return partial(path_kernel, dwell=_dwell(generator))

    def _path(self, video: bool, generator: Generator) -> Tensor:
        length = uniform(self.length, generator)
        if video:  # a camera hardly changes direction within a few milliseconds
            shake = min(_SMOOTH, self.shake[1])
            return random_trajectory(length, generator, shake=uniform((0, shake), generator), pull=0)
        shake, pull = uniform(self.shake, generator), uniform(self.pull, generator)
        impulses = uniform(self.impulses, generator)
        return random_trajectory(length, generator, shake=shake, pull=pull, impulses=impulses)

    def _turned(self, height: int, width: int, video: bool, generator: Generator) -> tuple[Tensor, Tensor]:
        path = self._path(video, generator)
        reach = math.hypot(height, width) / 2
        far = uniform(self.turning, generator) * uniform(self.length, generator) / reach
        time = torch.linspace(-0.5, 0.5, len(path))
        turn, zoom = (normal(generator) * far * time for _ in range(2))
        axis = torch.tensor([uniform((-0.5, 0.5), generator) * side for side in (height, width)])
        rows, columns = (min(max(2, round(side / _REGION)), 6) for side in (height, width))
        grid = [
            ((torch.arange(count) + 0.5) / count - 0.5) * side for count, side in ((rows, height), (columns, width))
        ]
        points = torch.cartesian_prod(*grid) - axis
        kernels = turning_kernels(path, turn, zoom, points, self._exposure(video, generator))
        return kernels, region_weights(height, width, rows, columns)

    def _given(self, generator: Generator) -> Tensor:
        chosen = int(uniform((0, len(self._loaded)), generator))
        turn = int(uniform((0, 8), generator))
        kernel = torch.rot90(self._loaded[min(chosen, len(self._loaded) - 1)], turn % 4)
        return kernel.flip(1) if turn >= 4 else kernel


def _dwell(generator: Generator) -> Tensor:
    """Return the relative time spent on each step of a path. It varies smoothly, as hands pause: measured kernels
    (Levin et al., CVPR 2009) have spots about ten times as bright as the rest.
    """
    pauses = uniform((0, 2.5), generator)
    return (pauses * smooth_field(1, _STEPS, _STEPS / 4, generator)[0]).exp()
