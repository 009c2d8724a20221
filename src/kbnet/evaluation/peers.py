"""Classical denoisers for comparison with the networks, each with its usual settings for noise with known sigma.

All of them are given sigma; the included networks aren't. They need the `peers` extra. The bm3d package is for
non-commercial use.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError
from kbnet.metrics import to_uint8

Image = NDArray[np.floating]
Denoise = Callable[[NDArray[np.float32], float], Image]


@dataclass(frozen=True)
class Peer:
    """A denoiser of another project.

    Attributes:
        name: name on the command line.
        label: name in tables and figures.
        package: name of the package to install.
        module: name of the module to import.
        settings: description of its settings, including how it gets sigma.
        source: authors of the method and the code.
        threads: number of threads it uses: "all" or "1".
    """

    name: str
    label: str
    package: str
    module: str
    settings: str
    source: str
    threads: str
    denoise: Denoise
    """Takes a float image [H,W] or [H,W,3] on a scale of [0,1], not clipped, and sigma on a scale of 255."""

    def version(self) -> str:
        """Return the version of the installed package."""
        return metadata.version(self.package)

    def require(self) -> None:
        """Check that it can run.

        Raises:
            MissingExtraError: its package isn't installed.
        """
        _import(self.module, self.package)


def _import(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise MissingExtraError(package, "peers") from None


def _bm3d(image: NDArray[np.float32], sigma: float) -> Image:
    bm3d = _import("bm3d", "bm3d")
    run = bm3d.bm3d if image.ndim == 2 else bm3d.bm3d_rgb
    result: Image = run(image.astype(np.float64), sigma / 255, "np")
    return result.reshape(image.shape)


OPENCV_STRENGTH = {2: 0.9, 3: 0.7}
"""Ratio of `h` to sigma for [H,W] and [H,W,3]. OpenCV's manual gives no rule; these had the best mean PSNR, in steps
of 0.1, on scikit-image's photos at sigma 25 (`python benchmarks/peers.py --tune`)."""


def _opencv_nl_means(image: NDArray[np.float32], sigma: float) -> Image:
    cv2 = _import("cv2", "opencv-python-headless")
    strength = OPENCV_STRENGTH[image.ndim] * sigma
    rounded = to_uint8(image)  # it only takes 8-bit images
    if image.ndim == 2:
        result = cv2.fastNlMeansDenoising(rounded, None, strength, 7, 21)
    else:
        result = cv2.fastNlMeansDenoisingColored(rounded[..., ::-1], None, strength, strength, 7, 21)[..., ::-1]
    scaled: Image = result.astype(np.float32) / np.float32(255)
    return scaled


def _axis(image: NDArray[np.float32]) -> int | None:
    return None if image.ndim == 2 else -1


def _skimage_nl_means(image: NDArray[np.float32], sigma: float) -> Image:
    restoration = _import("skimage.restoration", "scikit-image")
    result: Image = restoration.denoise_nl_means(
        image,
        patch_size=5,
        patch_distance=6,
        h=0.6 * sigma / 255,
        sigma=sigma / 255,
        fast_mode=True,
        channel_axis=_axis(image),
    )
    return result


def _wavelet(image: NDArray[np.float32], sigma: float) -> Image:
    _import("pywt", "PyWavelets")
    restoration = _import("skimage.restoration", "scikit-image")
    result: Image = restoration.denoise_wavelet(
        image,
        sigma=sigma / 255,
        method="BayesShrink",
        mode="soft",
        convert2ycbcr=image.ndim == 3,
        rescale_sigma=True,
        channel_axis=_axis(image),
    )
    return result


TOTAL_VARIATION_WEIGHT = 0.8
"""Ratio of `weight` to sigma, chosen like `OPENCV_STRENGTH`."""


def _total_variation(image: NDArray[np.float32], sigma: float) -> Image:
    restoration = _import("skimage.restoration", "scikit-image")
    result: Image = restoration.denoise_tv_chambolle(
        image, weight=TOTAL_VARIATION_WEIGHT * sigma / 255, channel_axis=_axis(image)
    )
    return result


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "wavelet",
            "wavelet, BayesShrink",
            "scikit-image",
            "pywt",
            "denoise_wavelet(method='BayesShrink', mode='soft', sigma); colour in YCbCr",
            "Chang, Yu, Vetterli 2000; scikit-image and PyWavelets",
            "1",
            _wavelet,
        ),
        Peer(
            "total-variation",
            "total variation",
            "scikit-image",
            "skimage",
            f"denoise_tv_chambolle(weight={TOTAL_VARIATION_WEIGHT} sigma)",
            "Rudin, Osher, Fatemi 1992; Chambolle 2004; scikit-image",
            "1",
            _total_variation,
        ),
        Peer(
            "opencv-nl-means",
            "non-local means, OpenCV",
            "opencv-python-headless",
            "cv2",
            f"8-bit input; fastNlMeansDenoisingColored(h=hColor={OPENCV_STRENGTH[3]} sigma, 7, 21), "
            f"gray fastNlMeansDenoising(h={OPENCV_STRENGTH[2]} sigma, 7, 21)",
            "Buades, Coll, Morel 2005, 2011; OpenCV",
            "all",
            _opencv_nl_means,
        ),
        Peer(
            "skimage-nl-means",
            "non-local means, scikit-image",
            "scikit-image",
            "skimage",
            "denoise_nl_means(h=0.6 sigma, sigma, patch_size=5, patch_distance=6, fast_mode=True)",
            "Buades, Coll, Morel 2005; Darbon and others 2008; scikit-image",
            "1",
            _skimage_nl_means,
        ),
        Peer(
            "bm3d",
            "BM3D",
            "bm3d",
            "bm3d",
            "bm3d_rgb(sigma, profile 'np', opponent colours), gray bm3d(sigma, profile 'np')",
            "Dabov, Foi, Katkovnik, Egiazarian 2007; Mäkinen, Azzari, Foi 2020; bm3d, for non-commercial use",
            "all",
            _bm3d,
        ),
    )
}
"""All peers by name, the fast ones first."""


def find_peers(names: Iterable[str]) -> list[Peer]:
    """Return peers by name, in the order of `PEERS`; "all" selects every peer.

    Raises:
        InvalidInputError: there is no such peer.
        MissingExtraError: the package of a peer isn't installed.
    """
    wanted = set(names)
    if unknown := wanted - {*PEERS, "all"}:
        raise InvalidInputError(
            f"unknown peer {', '.join(sorted(unknown))}; expected all or some of {', '.join(PEERS)}"
        )
    found = [peer for peer in PEERS.values() if peer.name in wanted or "all" in wanted]
    for peer in found:
        peer.require()
    return found
