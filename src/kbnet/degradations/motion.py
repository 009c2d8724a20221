"""Motion blur: random trajectories of a camera, its turns, which change the kernel over the image, and objects."""

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
_REGION = 128  # pixels between kernels of a turning camera, about


def random_trajectory(
    length: float, generator: Generator, *, shake: float = 0.2, pull: float = 0.1, impulses: float = 0.0
) -> Tensor:
    """A random path of the camera during the exposure, after Boracchi & Foi, "Modeling the performance of image
    restoration from motion blur", IEEE TIP 2012, section III.

    A point moves at constant speed; each of 48 steps its velocity keeps its inertia and takes on a random shake, a pull
    back to where it started, and now and then the impulse of a hand that corrects itself, which turns it about.

    Args:
        length: of the path, pixels.
        shake: deviation of the random change of velocity in a step, relative to the speed; 0 is a straight line.
        pull: change of velocity towards the start in a step, relative to the speed, at a distance of `length`.
        impulses: expected number of impulses in the whole path.

    Returns:
        [49,2] offsets down and across, starting at 0.
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
    """Kernels of a camera that also turns about its axis and moves ahead, at some points of the image.

    Geometry of Whyte et al., "Non-uniform deblurring for shaken images" (IJCV 2012), section 2, to first order: a point
    at p moves by path + turn x p + zoom p. Each kernel is centred on its own, for the sharp image is aligned with the
    middle of what it explains.

    Args:
        path: [T,2] translation in pixels.
        turn: [T] angles in radians; zoom: [T] relative changes of size.
        points: [P,2] down and across from the axis, pixels.
        kernel_of: the kernel [k,k] of one path [T,2].

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
    """Blur of a camera that moves (Boracchi & Foi 2012), turns (Whyte et al. 2012), or watches something that moves.

    Fields:
        length: of the camera's path, pixels; a wavy path gives a kernel smaller than that.
        shake, pull: as for `random_trajectory`.
        impulses: expected number of sudden turns.
        turning_share: share of calls in which the camera turns too, so that the kernel changes over the image.
        turning: how far corners move by the turn, relative to `length`.
        object_share: share of calls in which an object moves its own way before the background.
        scale: size of such an object, pixels, log-uniform.
        linear_share: share of calls that blur in linear light, as cameras do, instead of in sRGB, as benchmarks with
            given kernels do.
        highlight_gain: in linear light, light of clipped areas relative to white; makes bright traces.
        frames_share: share of calls that average sharp frames instead, as pictures made of high-speed video do (Nah et
            al., CVPR 2017): sRGB values, few distinct points along a smooth path, no pauses.
        frames: how many; the nearest odd number.
        kernels: a file or folder for `load_kernels`, relative to the working folder.
        kernels_share: share of calls that take one of those, flipped and turned at random, instead of a random path.
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
            raise InvalidInputError("expected both kernels and a kernels_share above 0, or neither")
        if self.kernels is not None:
            object.__setattr__(self, "_loaded", load_kernels(Path(self.kernels)))

    @property
    def margin(self) -> int:
        # a straight path on which the camera dwells at one end, and the corners' part of a turn
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
        """What makes the kernel of a path."""
        if video:
            return partial(frames_kernel, count=2 * round((uniform(self.frames, generator) - 1) / 2) + 1)
        return partial(path_kernel, dwell=_dwell(generator))

    def _path(self, video: bool, generator: Generator) -> Tensor:
        length = uniform(self.length, generator)
        if video:  # within its few milliseconds a camera hardly changes its course
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
    """Time spent on each step of a path: it changes smoothly, for hands pause; measured kernels (Levin et al., CVPR
    2009) have spots about ten times as bright as the rest.
    """
    pauses = uniform((0, 2.5), generator)
    return (pauses * smooth_field(1, _STEPS, _STEPS / 4, generator)[0]).exp()
