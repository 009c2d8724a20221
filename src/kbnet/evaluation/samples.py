"""Samples of the benchmarks, each loaded or generated when it is needed."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kbnet.data import Item, find_test_items, read_blocks
from kbnet.errors import InvalidInputError
from kbnet.imaging import compress_jpeg, read_photo, to_depth
from kbnet.metrics import noisy, opencv_gray, to_uint8

Image = NDArray[np.float32]
"""Image [H,W] or [H,W,3] on a scale of [0,1]; noise can exceed it."""

Target = NDArray[np.uint8 | np.uint16]
"""Clean image [H,W] or [H,W,3] over the full range of its dtype."""

Load = Callable[[], tuple[Image, Target | None]]

Source = Path | NDArray[np.generic]
"""What a sample is made from: a file, or values that are in memory anyway."""


@dataclass(frozen=True)
class Sample:
    """One degraded image and, if it is published, the clean one.

    Attributes:
        photo: name of the image, without suffix.
        groups: groups whose means include it; the first is its condition ("sigma 25", "indoor", ...).
        load: loads or generates the input and the clean image; raises InvalidInputError or ImageError if it can't.
        sources: everything that `load` reads and that differs between samples.
        made: whether the input is generated instead of read from the data set.
    """

    photo: str
    groups: tuple[str, ...]
    load: Load
    sources: tuple[Source, ...] = field(compare=False)  # arrays can't be compared as a whole
    made: bool = False

    @property
    def name(self) -> str:
        """Name of its row of results, unique in a benchmark."""
        return f"{self.groups[0]}/{self.photo}"

    def digest(self) -> str:
        """Return the `digest_of` its sources, which tells whether a row of that name was measured on the same data."""
        return digest_of(*self.sources)


@dataclass(frozen=True)
class Request:
    """Options for the samples of a benchmark.

    Attributes:
        data: folder of the data set.
        channels: channels of the images, 3 or 1: the benchmark's, or the model's if it accepts both.
        sigmas: standard deviations of the noise on a scale of 255.
        kernels: file or folder with blur kernels.
    """

    data: Path
    channels: int = 3
    sigmas: tuple[float, ...] = ()
    kernels: Path | None = None


def digest_of(*sources: Source) -> str:
    """Return a SHA-256 of the bytes of files, and of the values and shapes of arrays.

    Raises:
        OSError: a file can't be read.
    """
    whole = hashlib.sha256()
    for source in sources:
        if isinstance(source, Path):
            with source.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        else:
            # with the shape, since the same values in another one are another image
            whole.update(f"{source.dtype} {source.shape} ".encode())
            whole.update(hashlib.sha256(np.ascontiguousarray(source).data).digest())
    return whole.hexdigest()


def limited(samples: Iterable[Sample], limit: int | None) -> list[Sample]:
    """Return the samples of the first `limit` images, under all conditions; all samples if it is None."""
    samples = list(samples)
    if limit is None:
        return samples
    first = set(list(dict.fromkeys(sample.photo for sample in samples))[:limit])
    return [sample for sample in samples if sample.photo in first]


def gaussian_samples(request: Request) -> list[Sample]:
    """Create samples: every photo at every sigma, with the noise of `kbnet.metrics.noisy`."""

    def load(path: Path, sigma: float) -> tuple[Image, Target]:
        clean = read_bytes(path, request.channels)
        return noisy(clean, sigma), clean

    paths = photo_names(request.data)
    return [
        Sample(name, (f"sigma {sigma:g}",), partial(load, path, sigma), (path,), made=True)
        for sigma in request.sigmas
        for name, path in paths.items()
    ]


def saved_samples(quality: int | None) -> Callable[[Request], list[Sample]]:
    """Return a function that creates samples with the noise of `gaussian_samples`, rounded to 8 bits.

    Args:
        quality: also compress the images as JPEG with this quality, without chroma subsampling; None for no JPEG.
    """
    kept = "8 bits" if quality is None else f"JPEG {quality}"

    def load(path: Path, sigma: float, channels: int) -> tuple[Image, Target]:
        clean = read_bytes(path, channels)
        pixels = to_uint8(noisy(clean, sigma))
        return to_float(pixels if quality is None else np.asarray(compress_jpeg(pixels, quality), np.uint8)), clean

    def collect(request: Request) -> list[Sample]:
        paths = photo_names(request.data)
        return [
            Sample(
                name, (f"{kept}, sigma {sigma:g}",), partial(load, path, sigma, request.channels), (path,), made=True
            )
            for sigma in request.sigmas
            for name, path in paths.items()
        ]

    return collect


def clean_samples(request: Request) -> list[Sample]:
    """Create samples whose input and target are the same clean photo."""

    def load(path: Path) -> tuple[Image, Target]:
        clean = read_bytes(path, request.channels)
        return to_float(clean), clean

    return [Sample(name, ("clean",), partial(load, path), (path,)) for name, path in photo_names(request.data).items()]


def pair_samples(layout: str, *, deep: bool = False, gray: bool = False) -> Callable[[Request], list[Sample]]:
    """Return a function that creates samples from the pairs of a layout.

    Args:
        layout: name of the layout in `kbnet.data.TEST_LAYOUTS`.
        deep: keep 16 bits per channel if the files have them.
        gray: convert both images to gray like OpenCV.
    """

    whole = "gray" if gray else "all"

    def load(item: Item) -> tuple[Image, Target]:
        assert item.degraded is not None
        if gray:
            return matched(read_bytes(item.degraded, 1), read_bytes(item.clean, 1), item)
        return matched(read_pixels(item.degraded, deep=deep), read_pixels(item.clean, deep=deep), item)

    def collect(request: Request) -> list[Sample]:
        items = find_test_items(request.data, layout)
        samples = []
        for name, item in zip(_names([item.degraded or item.clean for item in items]), items, strict=True):
            groups = (item.scene, whole) if item.scene else (whole,)
            sources = (item.clean,) if item.degraded is None else (item.degraded, item.clean)
            samples.append(Sample(name, groups, partial(load, item), sources))
        return samples

    return collect


def sidd_samples(*, truth: bool) -> Callable[[Request], list[Sample]]:
    """Return a function that creates samples from SIDD's validation blocks (`truth`) or its benchmark blocks."""
    part = "Validation" if truth else "Benchmark"

    def collect(request: Request) -> list[Sample]:
        noisy_blocks = read_blocks(request.data, f"{part}NoisyBlocksSrgb")
        clean_blocks = read_blocks(request.data, f"{part}GtBlocksSrgb") if truth else None
        if clean_blocks is not None and clean_blocks.shape != noisy_blocks.shape:
            raise InvalidInputError(
                f"expected clean and noisy blocks of the same shape, got {clean_blocks.shape} and {noisy_blocks.shape}"
            )

        def load(scene: int, block: int) -> tuple[Image, Target | None]:
            clean = None if clean_blocks is None else clean_blocks[scene, block]
            return to_float(noisy_blocks[scene, block]), clean

        both = [blocks for blocks in (noisy_blocks, clean_blocks) if blocks is not None]
        return [
            Sample(
                f"{scene + 1:02}-{block + 1:02}",
                ("all",),
                partial(load, scene, block),
                tuple(blocks[scene, block] for blocks in both),
            )
            for scene in range(noisy_blocks.shape[0])
            for block in range(noisy_blocks.shape[1])
        ]

    return collect


def in_folder(collect: Callable[[Request], list[Sample]], *names: str) -> Callable[[Request], list[Sample]]:
    """Wrap `collect` to look for a subfolder with one of these names, in the data folder and in its test/ folder."""

    def collect_there(request: Request) -> list[Sample]:
        for place in (place / name for name in names for place in (request.data, request.data / "test")):
            if place.is_dir():
                return collect(Request(place, request.channels, request.sigmas, request.kernels))
        return collect(request)

    return collect_there


def photo_names(folder: Path) -> dict[str, Path]:
    """Return all photos in a folder by unique name: the path without suffix, or with it if two would be equal."""
    paths = [item.clean for item in find_test_items(folder, "photos")]
    return dict(zip(_names(paths), paths, strict=True))


def read_pixels(path: Path, *, deep: bool = False) -> Target:
    """Read the pixels of a file, [H,W] or [H,W,3]; 16-bit values are rounded to 8 bits unless `deep`."""
    pixels = read_photo(path).pixels
    return to_depth(pixels, 16) if deep and pixels.dtype != np.uint8 else to_depth(pixels, 8)  # type: ignore[return-value]  # integers


def read_bytes(path: Path, channels: int) -> NDArray[np.uint8]:
    """Read a photo as 8-bit [H,W,3] or, with channels = 1, as [H,W] in gray as OpenCV reads it."""
    pixels: NDArray[np.uint8] = read_pixels(path).astype(np.uint8, copy=False)
    if channels == 1:
        return opencv_gray(pixels, read_from_png=path.suffix.lower() == ".png")
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def to_float(pixels: Target) -> Image:
    """Convert pixels to float32 in [0,1]."""
    image: Image = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return image


def matched(degraded: Target, clean: Target, item: Item) -> tuple[Image, Target]:
    """Return a pair in the same shape. If only one image is gray, it gets three equal channels.

    Raises:
        InvalidInputError: the sizes differ.
    """
    if degraded.shape[:2] != clean.shape[:2]:
        raise InvalidInputError(
            f"expected a pair of the same size, got {degraded.shape[1]}x{degraded.shape[0]} for {item.degraded} and "
            f"{clean.shape[1]}x{clean.shape[0]} for {item.clean}"
        )
    if degraded.ndim != clean.ndim:
        degraded, clean = (np.repeat(a[..., None], 3, axis=2) if a.ndim == 2 else a for a in (degraded, clean))
    return to_float(degraded), clean


def _names(paths: list[Path]) -> list[str]:
    root = os.path.commonpath([path.parent for path in paths])
    short = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    counts = Counter(short)
    return [
        name if counts[name] == 1 else path.relative_to(root).as_posix()
        for name, path in zip(short, paths, strict=True)
    ]
