"""The blur protocol: clean photos blurred with known kernels in linear light, with true borders and slight noise.

Each photo is blurred twice, with a defocus and with a motion kernel: photo i (from 0, in order of names) gets kernel i,
modulo the number of kernels of the kind. Its sRGB values are converted to linear light (IEC 61966-2-1), convolved with
the kernel and converted back. Input and clean image are cropped by the radius of the kernel, so that no pixel depends
on values outside the photo. Then Gaussian noise of standard deviation sigma (on a scale of 255, `numpy.random.seed(0)`
for each image) is added, and the result is rounded to 8 bits.
"""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kbnet.degradations import load_kernels
from kbnet.degradations.blur import blur
from kbnet.degradations.kernels import disk_kernel, path_kernel, polygon_kernel
from kbnet.degradations.motion import random_trajectory
from kbnet.errors import InvalidInputError
from kbnet.evaluation.samples import Image, Request, Sample, Target, photo_names, read_bytes
from kbnet.imaging import is_supported
from kbnet.metrics import to_uint8

Kernels = dict[str, tuple[Tensor, ...]]
"""Kernels [k,k] with odd k and sum 1, by kind: "defocus" and "motion"."""

_PREFIXES = {"d_": "defocus", "m_": "motion"}
_DISKS = (1.25, 1.75, 2.5, 3.25, 4.25, 5.25)
_POLYGONS = ((2.0, 6, 0.2), (4.75, 7, 0.4))  # radius, blades, rotation
_PATHS = (6, 9, 12, 15, 18, 21, 24, 28)  # length in pixels
_SEED = 20230303

_LEAST_LEFT = 32  # minimum side in pixels after cropping


def drawn_kernels() -> Kernels:
    """Create the protocol's kernels: eight apertures, round and polygonal, and eight random trajectories.

    The radius of the defocus is 1.25 to 5.25 pixels. Trajectories (Boracchi & Foi, TIP 2012) have fixed seeds and are 6
    to 28 pixels long. Training draws kernels from continuous ranges, so it never sees exactly these.
    """
    apertures = [disk_kernel(radius) for radius in _DISKS] + [polygon_kernel(*settings) for settings in _POLYGONS]
    paths = []
    for number, length in enumerate(_PATHS):
        generator = torch.Generator().manual_seed(_SEED + number)
        shake = (0.05, 0.2, 0.35)[number % 3]
        paths.append(path_kernel(random_trajectory(length, generator, shake=shake, pull=0.1, impulses=number % 2)))
    return {"defocus": tuple(apertures), "motion": tuple(paths)}


def kernels_from(path: Path) -> Kernels:
    """Load the kernels of a file or folder, by kind.

    The prefix of a file name determines the kind: `d_` means defocus and `m_` motion; other files are ignored. If no
    file has a prefix, all kernels are of the kind "kernels".

    Raises:
        InvalidInputError: there are no kernels, or a file isn't a kernel.
        MissingExtraError: a MATLAB file needs scipy, which isn't installed.
    """
    files = kernel_files(path)
    kinds: dict[str, list[Tensor]] = {}
    for file in files:
        if kind := _PREFIXES.get(file.name[:2]):
            kinds.setdefault(kind, []).extend(load_kernels(file))
    if not kinds:
        kinds["kernels"] = [kernel for file in files for kernel in load_kernels(file)]
    return {kind: tuple(kernels) for kind, kernels in kinds.items()}


def kernel_files(path: Path) -> list[Path]:
    """Return the file itself, or the kernel files of a folder in order of their names."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() == ".mat" or is_supported(p))
        if not found:
            raise InvalidInputError(f"no blur kernels (.mat or images) in {path}; use another folder")
        return found
    return [path]


def describe_kernels(path: Path | None) -> dict[str, object]:
    """Describe the kernels for a results file as plain values. Files are identified by a SHA-256 of their contents."""
    if path is None:
        return {"kernels": f"drawn, seed {_SEED}", **{kind: len(k) for kind, k in drawn_kernels().items()}}
    digest = hashlib.sha256()
    for file in kernel_files(path):
        digest.update(file.read_bytes())
    counts = {kind: len(kernels) for kind, kernels in kernels_from(path).items()}
    return {"kernels": path.resolve().name, "sha256": digest.hexdigest(), **counts}


def blur_samples(request: Request) -> list[Sample]:
    """Create samples: every photo with one kernel of each kind, for every sigma of the noise."""
    kinds = drawn_kernels() if request.kernels is None else kernels_from(request.kernels)
    samples = []
    for sigma in request.sigmas:
        after = "" if len(request.sigmas) == 1 else f", sigma {sigma:g}"
        for kind, kernels in kinds.items():
            for number, (name, path) in enumerate(photo_names(request.data).items()):
                kernel = kernels[number % len(kernels)]
                load = partial(_load, path, request.channels, kernel, sigma)
                groups = (f"{kind}{after}",) if len(kinds) == 1 else (f"{kind}{after}", f"all{after}")
                # with the kernel, which depends on the number of the photo in the folder
                samples.append(Sample(name, groups, load, (path, kernel.numpy()), made=True))
    return samples


def blurred(clean: Target, kernel: Tensor, sigma: float) -> tuple[Image, Target]:
    """Apply the protocol to one image.

    Args:
        clean: [H,W] or [H,W,3] uint8.
        kernel: [k,l] with odd sides and sum 1.
        sigma: standard deviation of the noise on a scale of 255.

    Returns:
        The blurred image, float32 in [0,1] with 256 levels, and the clean one, both cropped.

    Raises:
        InvalidInputError: a side has less than 32 pixels after cropping.
    """
    rows, columns = (side // 2 for side in kernel.shape)
    height, width = clean.shape[:2]
    if min(height - 2 * rows, width - 2 * columns) < _LEAST_LEFT:
        raise InvalidInputError(
            f"a photo of {width} x {height} pixels is too small for a kernel of {kernel.shape[1]} x {kernel.shape[0]}; "
            f"cropping by its radius must leave at least {_LEAST_LEFT} pixels per side"
        )
    channels = np.atleast_3d(clean).transpose(2, 0, 1).astype(np.float64) / 255
    soft = blur(torch.from_numpy(channels), kernel.double()).permute(1, 2, 0).numpy().reshape(clean.shape)
    inner = (slice(rows, height - rows), slice(columns, width - columns))
    noise = np.random.RandomState(0).normal(0, sigma / 255, soft[inner].shape)
    image: Image = to_uint8(soft[inner] + noise).astype(np.float32) / np.float32(255)
    return image, clean[inner]


def _load(path: Path, channels: int, kernel: Tensor, sigma: float) -> tuple[Image, Target]:
    return blurred(read_bytes(path, channels), kernel, sigma)
