"""Blur kernels from apertures, trajectories and files. Kernels sum to 1 and aren't negative."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kbnet.errors import InvalidInputError, MissingExtraError
from kbnet.imaging import is_supported, read_photo

MAX_KERNEL_SIDE = 255
"""Largest side of a kernel in pixels. Published kernels are below 100."""

_MAX_FILE_BYTES = 1 << 20  # also bounds the decompressed size, to about a thousand times this
_SAMPLES = 9  # samples per pixel and axis for its coverage by an aperture


def disk_kernel(radius: float) -> Tensor:
    """Return the kernel of a defocused round aperture: an antialiased disk [k,k] with any radius in pixels.

    Radius 0 gives the identity. A pixel's value is its coverage by the disk, sampled on a 9x9 grid.

    Example:
        >>> round(float(disk_kernel(3.3)[3, 3]) ** -1 / 3.3**2, 2)
        3.14
    """
    return _aperture(radius, lambda down, across: down.square() + across.square() <= radius**2)


def polygon_kernel(radius: float, blades: int, rotation: float = 0.0) -> Tensor:
    """Return the kernel of a defocused aperture with straight blades: a regular polygon with the area of a disk.

    Args:
        radius: radius in pixels of the disk with the same area.
        blades: number of corners, at least 3.
        rotation: rotation in radians.

    Raises:
        InvalidInputError: fewer than 3 blades.
    """
    if blades < 3:
        raise InvalidInputError(f"expected an aperture with at least 3 blades, got {blades}")
    sector = 2 * math.pi / blades
    circumradius = radius * math.sqrt(sector / math.sin(sector))
    apothem = circumradius * math.cos(sector / 2)

    def inside(down: Tensor, across: Tensor) -> Tensor:
        angle = torch.remainder(torch.atan2(down, across) - rotation, sector) - sector / 2
        return torch.hypot(down, across) * angle.cos() <= apothem

    return _aperture(radius, inside, reach=circumradius)


def path_kernel(path: Tensor, dwell: Tensor | None = None, *, side: int | None = None) -> Tensor:
    """Return the kernel [k,k] of a point that moves along a path. Its centroid is in the middle.

    The path is sampled four times per pixel, and each sample distributed over its four nearest pixels, so that the
    kernel's centroid is exact to a fraction of a pixel.

    Args:
        path: [T,2] offsets down and across in pixels, at least one.
        dwell: [T-1] relative time spent on each piece of the path; equal by default.
        side: odd side of the result; by default the smallest possible.

    Raises:
        InvalidInputError: the path doesn't fit `side`, or `dwell` doesn't match the path.
    """
    path = path.double()
    if path.ndim != 2 or path.shape[1] != 2 or len(path) == 0 or not torch.isfinite(path).all():
        raise InvalidInputError(f"expected a path [T,2] of finite offsets, got shape {list(path.shape)}")
    pieces = max(len(path) - 1, 1)
    time = torch.ones(pieces, dtype=path.dtype) if dwell is None else dwell.to(path.dtype)
    if time.shape != (pieces,):
        raise InvalidInputError(
            f"expected {pieces} dwell times, one for each piece of the path, got {list(time.shape)}"
        )
    start, step = path[: len(time)], path.diff(dim=0) if len(path) > 1 else torch.zeros(1, 2, dtype=path.dtype)
    count = max(1, math.ceil(float(step.norm(dim=1).max()) * 4))
    along = (torch.arange(count, dtype=path.dtype) + 0.5) / count
    points = (start[:, None] + step[:, None] * along[:, None]).reshape(-1, 2)
    weight = (time / (time.sum() * count)).repeat_interleave(count)
    points = points - (points * weight[:, None]).sum(0)
    reach = math.ceil(float(points.abs().max()))
    radius = reach if side is None else side // 2
    if reach > radius or (side is not None and side % 2 == 0):
        raise InvalidInputError(f"expected an odd side of at least {2 * reach + 1} for this path, got {side}")
    return _splat(points, weight, radius)


def frames_kernel(path: Tensor, count: int) -> Tensor:
    """Return the kernel [k,k] of an average of `count` short frames: points along a path at equal time intervals.

    Data sets from high-speed video make blurred images this way (Nah et al., "Deep multi-scale convolutional neural
    network for dynamic scene deblurring", CVPR 2017, section 3.1). The sharp image is the middle frame, which is in the
    middle of this kernel.

    Args:
        path: [T,2] offsets down and across in pixels at equal time intervals, at least one.
        count: number of frames, odd.

    Raises:
        InvalidInputError: `count` is even, or the path has another shape.
    """
    path = path.double()
    if path.ndim != 2 or path.shape[1] != 2 or len(path) == 0 or not torch.isfinite(path).all():
        raise InvalidInputError(f"expected a path [T,2] of finite offsets, got shape {list(path.shape)}")
    if count < 1 or count % 2 == 0:
        raise InvalidInputError(f"expected an odd number of frames, got {count}")
    when = torch.linspace(0, len(path) - 1, count, dtype=path.dtype)
    before = when.floor().long().clamp_max(max(len(path) - 2, 0))
    part = (when - before)[:, None]
    points = path[before] * (1 - part) + path[(before + 1).clamp_max(len(path) - 1)] * part
    points = points - points[count // 2]
    weight = torch.full((count,), 1 / count, dtype=path.dtype)
    return _splat(points, weight, math.ceil(float(points.abs().max())))


def centred(kernel: Tensor) -> Tensor:
    """Shift a kernel by whole pixels so that its centroid is in the middle pixel, crop zeros, and normalize the sum.

    Otherwise a network trained on the kernel would learn to shift the image.

    Raises:
        InvalidInputError: not a matrix of finite, non-negative values with a positive sum.
    """
    if (
        kernel.ndim != 2
        or 0 in kernel.shape
        or not torch.isfinite(kernel).all()
        or kernel.min() < 0
        or kernel.sum() <= 0
    ):
        raise InvalidInputError(
            f"expected a kernel [k,l] of finite values >= 0, not all zero, got shape {list(kernel.shape)}"
        )
    kernel = kernel.double() / kernel.double().sum()
    rows, columns = kernel.sum(1), kernel.sum(0)
    middle = [round(float((line * torch.arange(len(line))).sum())) for line in (rows, columns)]
    used = [torch.nonzero(line).flatten().tolist() for line in (rows, columns)]
    reach = max(max(abs(at - where[0]), abs(at - where[-1])) for at, where in zip(middle, used, strict=True))
    result = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=kernel.dtype)
    top, left = reach - middle[0] + used[0][0], reach - middle[1] + used[1][0]
    cut = kernel[used[0][0] : used[0][-1] + 1, used[1][0] : used[1][-1] + 1]
    result[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return result.float()


def load_kernels(path: Path | str) -> tuple[Tensor, ...]:
    """Load blur kernels from a file, or from all such files in a folder in the order of their names; each `centred`.

    Reads MATLAB files up to version 7 (all matrices, and cells that contain matrices), and images, whose values are the
    kernel. Nothing in a file is executed.

    Raises:
        InvalidInputError: no kernels found, a file is over 1 MiB, or a kernel is invalid or over 255 pixels per side.
        ImageError: an image can't be read.
        MissingExtraError: a MATLAB file is given, but scipy isn't installed.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".mat" or is_supported(p))
        if not files:
            raise InvalidInputError(f"expected a folder with blur kernels (.mat or images), found none in {path}")
        return tuple(kernel for file in files for kernel in load_kernels(file))
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InvalidInputError(f"expected a file with blur kernels, {path}: {error.strerror}") from None
    if size > _MAX_FILE_BYTES:
        raise InvalidInputError(f"expected a kernel file of at most {_MAX_FILE_BYTES} bytes, {path} has {size}")
    matrices = _matlab(path) if path.suffix.lower() == ".mat" else [_picture(path)]
    for matrix in matrices:
        if matrix.ndim != 2 or max(matrix.shape) > MAX_KERNEL_SIDE:
            raise InvalidInputError(
                f"{path}: expected kernels of at most {MAX_KERNEL_SIDE} pixels per side, got {list(matrix.shape)}"
            )
    try:
        return tuple(centred(matrix) for matrix in matrices)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from None


def _aperture(radius: float, inside: Any, reach: float | None = None) -> Tensor:
    if not (math.isfinite(radius) and 0 <= radius <= MAX_KERNEL_SIDE / 2):
        raise InvalidInputError(f"expected a radius from 0 to {MAX_KERNEL_SIDE / 2} pixels, got {radius}")
    half = max(0, math.ceil((radius if reach is None else reach) - 0.5))
    side = 2 * half + 1
    position = (torch.arange(side * _SAMPLES) + 0.5) / _SAMPLES - side / 2
    share: Tensor = inside(position[:, None], position).float().view(side, _SAMPLES, side, _SAMPLES).mean((1, 3))
    if half == 0:
        return torch.ones(1, 1)
    return share / share.sum()


def _splat(points: Tensor, weight: Tensor, radius: int) -> Tensor:
    """Distribute weights [P] at points [P,2], relative to the middle, over the four nearest pixels of each point."""
    side = 2 * radius + 1
    place = points + radius
    corner = place.floor().clamp(0, max(side - 2, 0))
    part = place - corner
    kernel = torch.zeros(side * side, dtype=points.dtype)
    for down in (0, 1):
        for across in (0, 1):
            parts = (part if down else 1 - part)[:, 0] * (part if across else 1 - part)[:, 1]
            index = (corner[:, 0] + down) * side + corner[:, 1] + across
            kernel.index_add_(0, index.long().clamp_max(side * side - 1), weight * parts)
    kernel = kernel.clamp_min_(0).view(side, side)
    return (kernel / kernel.sum()).float()


def _matlab(path: Path) -> list[Tensor]:
    try:
        from scipy.io import loadmat, whosmat
    except ModuleNotFoundError:
        raise MissingExtraError("scipy", "train") from None
    try:
        shapes = {name: shape for name, shape, _ in whosmat(str(path))}
        if large := [name for name, shape in shapes.items() if math.prod(shape) > MAX_KERNEL_SIDE**2]:
            raise InvalidInputError(
                f"{path}: expected kernels of at most {MAX_KERNEL_SIDE} pixels per side, "
                f"{large[0]} is {shapes[large[0]]}"
            )
        content = loadmat(str(path))
    except InvalidInputError:
        raise
    except NotImplementedError:
        raise InvalidInputError(f"{path} is a MATLAB 7.3 file, which is not supported; save it with -v7") from None
    except Exception as error:  # scipy's reader raises all kinds of exceptions for damaged files
        raise InvalidInputError(f"{path} is not a readable MATLAB file: {error}") from None
    arrays = [
        array for name in shapes for array in ([content[name]] if content[name].dtype != object else content[name].flat)
    ]
    kernels = [array for array in arrays if getattr(array, "ndim", 0) == 2 and array.dtype.kind in "fiu" and array.size]
    if not kernels:
        raise InvalidInputError(f"{path}: expected matrices of real numbers, found none")
    return [torch.from_numpy(array.astype("float64")) for array in kernels]


def _picture(path: Path) -> Tensor:
    pixels = torch.from_numpy(read_photo(path, max_pixels=MAX_KERNEL_SIDE**2).pixels.astype("float64"))
    return pixels.mean(-1) if pixels.ndim == 3 else pixels
