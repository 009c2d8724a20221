"""The table of benchmarks: the data each one needs, where its authors publish it, and its protocol."""

from collections.abc import Callable
from dataclasses import dataclass

from kbnet.errors import InvalidInputError
from kbnet.evaluation.blurring import blur_samples
from kbnet.evaluation.charts import chart_samples
from kbnet.evaluation.samples import (
    Request,
    Sample,
    clean_samples,
    gaussian_samples,
    in_folder,
    pair_samples,
    saved_samples,
    sidd_samples,
)
from kbnet.evaluation.scores import Score, score_bytes, score_dpdd, score_shifted, score_sidd, score_y

SIGMAS = (15.0, 25.0, 50.0)

_PHOTOS = "a folder of clean photos, including subfolders"
_RAIN = "input/ and target/ with the same names, or rain/rain-001.png and norain/norain-001.png"
_RAIN13K = "also in the test archive of Rain13K, linked by the MPRNet and Restormer repositories"
_BYTES = "both rounded to 8 bits; PSNR over all pixels and channels; MATLAB's SSIM"
_Y = "both rounded to 8 bits, then Y of MATLAB's rgb2ycbcr, rounded; PSNR and MATLAB's SSIM of Y"
_GAUSSIAN = "noise from numpy.random.seed(0) for each photo, added in float32, not clipped or rounded; then "


@dataclass(frozen=True)
class Benchmark:
    """A data set, or a kind of data set, and its evaluation protocol.

    Attributes:
        name: name on the command line.
        title: name in tables and reports.
        layout: description of what the `--data` folder must hold.
        source: description of where its authors publish it.
        protocol: description of the protocol.
        task: the task whose default model is evaluated if no model is given.
        collect: creates the samples.
        score: compares an output with the clean image.
        channels: 3 or 1; 0 means the model's.
        sigmas: standard deviations of the added noise, on a scale of 255; empty if no noise is added.
        pictures: number of images in the published set; 0 if it can be any number.
        published_tiles: whether papers report results in tiles of 1024 pixels (`in_published_tiles`).
        restores: whether an output worse than its input is a failure; false if the input is the clean image.
        needs_data: whether it reads a folder; false if code draws its images.
    """

    name: str
    title: str
    layout: str
    source: str
    protocol: str
    task: str
    collect: Callable[[Request], list[Sample]]
    score: Score
    channels: int = 0
    sigmas: tuple[float, ...] = ()
    pictures: int = 0
    published_tiles: bool = False
    restores: bool = True
    needs_data: bool = True


def _gaussian(name: str, title: str, channels: int, pictures: int, layout: str, source: str) -> Benchmark:
    return Benchmark(
        name,
        title,
        layout,
        source,
        _GAUSSIAN + _BYTES,
        "denoise-gaussian-gray" if channels == 1 else "denoise-gaussian",
        gaussian_samples,
        score_bytes,
        channels=channels,
        sigmas=SIGMAS,
        pictures=pictures,
    )


def _rain(name: str, title: str, pictures: int, source: str) -> Benchmark:
    folders = (title, f"{title}-dev")
    return Benchmark(
        name,
        title,
        _RAIN,
        f"{source}; {_RAIN13K}",
        _Y,
        "derain",
        in_folder(pair_samples("rain"), *folders),
        score_y,
        pictures=pictures,
    )


def _saved(name: str, title: str, quality: int | None, kept: str) -> Benchmark:
    noise = "noise from numpy.random.seed(0) for each photo, "
    return Benchmark(
        name,
        title,
        _PHOTOS,
        "your own photos",
        f"{noise}{kept}{_BYTES}",
        "denoise",
        saved_samples(quality),
        score_bytes,
        sigmas=(25.0,),
    )


_KAIR = "among the test sets of the FFDNet, DnCNN and KAIR repositories of K. Zhang"

_TABLE = (
    _gaussian("gaussian", "Gaussian noise", 0, 0, _PHOTOS, "your own photos"),
    _gaussian("cbsd68", "CBSD68", 3, 68, _PHOTOS, f"68 colour photos from the Berkeley segmentation set; {_KAIR}"),
    _gaussian("kodak24", "Kodak24", 3, 24, "24 photos of 500 x 500 pixels (the crops used since FFDNet)", _KAIR),
    _gaussian(
        "mcmaster", "McMaster", 3, 18, _PHOTOS, f"L. Zhang's page at the Hong Kong Polytechnic University; {_KAIR}"
    ),
    _gaussian(
        "urban100", "Urban100", 3, 100, _PHOTOS, "the SelfExSR repository of J.-B. Huang (the high-resolution images)"
    ),
    _gaussian("set12", "Set12", 1, 12, _PHOTOS, f"12 gray images; {_KAIR}"),
    _gaussian("bsd68", "BSD68", 1, 68, _PHOTOS, f"68 gray photos from the Berkeley segmentation set; {_KAIR}"),
    _gaussian("urban100-gray", "Urban100, gray", 1, 100, _PHOTOS, "urban100, converted to gray like OpenCV"),
    Benchmark(
        "sidd",
        "SIDD validation",
        "ValidationNoisyBlocksSrgb.mat and ValidationGtBlocksSrgb.mat",
        "the SIDD page of York University: validation data in sRGB",
        "each block separately; clipped, not rounded; PSNR; scikit-image's SSIM with a range of 1 and, as in older "
        "papers, 2",
        "denoise",
        sidd_samples(truth=True),
        score_sidd,
        channels=3,
        pictures=1280,
    ),
    Benchmark(
        "sidd-benchmark",
        "SIDD benchmark, for its server",
        "BenchmarkNoisyBlocksSrgb.mat; add --save and --submission SubmitSrgb.csv (or .mat)",
        "the SIDD page of York University: benchmark data in sRGB; only its server computes scores",
        "each block separately, rounded to 8 bits; no scores, because the clean blocks are not published",
        "denoise",
        sidd_samples(truth=False),
        score_bytes,
        channels=3,
        pictures=1280,
    ),
    Benchmark(
        "sensenoise",
        "SenseNoise-500, test part",
        "noisy/ and gt/, and test.txt, which lists the test images",
        "the IDR repository of Y. Zhang (arXiv 2111.14358)",
        f"in tiles of 1024 pixels as published; {_BYTES}",
        "denoise",
        pair_samples("sensenoise"),
        score_bytes,
        published_tiles=True,
    ),
    _rain("test100", "Test100", 98, "H. Zhang et al., the ID-CGAN repository"),
    _rain("rain100h", "Rain100H", 100, "W. Yang et al. (CVPR 2017), the page of Joint Rain Detection and Removal"),
    _rain("rain100l", "Rain100L", 100, "W. Yang et al. (CVPR 2017), the page of Joint Rain Detection and Removal"),
    _rain("test2800", "Test2800", 2800, "X. Fu et al. (CVPR 2017), the page of the deep detail network"),
    _rain("test1200", "Test1200", 1200, "H. Zhang and V. Patel (CVPR 2018), the DID-MDN repository"),
    Benchmark(
        "dpdd",
        "DPDD, single image",
        "test_c/source and test_c/target (or test/inputC and test/target) and, for the split, indoor_labels.npy and "
        "outdoor_labels.npy with image numbers, starting at 1",
        "A. Abuolaim and M. Brown (ECCV 2020), the defocus-deblurring-dual-pixel repository; the label files in "
        "Restormer's",
        "in tiles of 1024 pixels as published; 16-bit values, clipped, not rounded; PSNR, scikit-image's SSIM, MAE",
        "deblur",
        pair_samples("dpdd", deep=True),
        score_dpdd,
        channels=3,
        pictures=76,
        published_tiles=True,
    ),
    Benchmark(
        "levin09",
        "Levin et al. 2009",
        "im1_kernel1_img.png and so on, and gt/im1.png to gt/im4.png",
        "A. Levin et al. (CVPR 2009), the authors' page at the Weizmann Institute",
        "rounded to 8 bits; PSNR within a border of 16 pixels at the best whole-pixel shift up to 10, input and output",
        "deblur",
        pair_samples("levin"),
        score_shifted,
        pictures=32,
    ),
    Benchmark(
        "pairs",
        "pairs of degraded and clean photos",
        "input/ and target/ with the same names; extensions may differ",
        "your own images, or any data set in this layout (PolyU, GoPro, RealBlur ...)",
        _BYTES,
        "denoise",
        pair_samples("pairs"),
        score_bytes,
    ),
    Benchmark(
        "pairs-gray",
        "pairs of degraded and clean photos, in gray",
        "input/ and target/ with the same names; extensions may differ",
        "your own images, or any data set in this layout",
        "both converted to gray like OpenCV; " + _BYTES,
        "denoise-gray",
        pair_samples("pairs", gray=True),
        score_bytes,
        channels=1,
    ),
    Benchmark(
        "blur",
        "synthetic blur",
        f"{_PHOTOS}; for your own kernels, --kernels FILE or FOLDER (.mat or images; d_* defocus, m_* motion)",
        "your own photos; kernels are drawn with a fixed seed; DPSR and KAIR publish .mat files for --kernels",
        "one defocus and one motion kernel per photo, in linear light; borders cropped; noise of sigma 1 (or --sigma) "
        "from numpy.random.seed(0); rounded to 8 bits; then " + _BYTES,
        "deblur",
        blur_samples,
        score_bytes,
        sigmas=(1.0,),
    ),
    _saved("gaussian-8bit", "Gaussian noise in 8-bit files", None, "then clipped and rounded to 8 bits; "),
    _saved("gaussian-jpeg", "Gaussian noise saved as JPEG", 80, "then saved as JPEG with quality 80, 4:4:4; "),
    Benchmark(
        "clean",
        "clean photos, unchanged if possible",
        _PHOTOS,
        "your own photos",
        "clean photos as input; output compared with input, " + _BYTES,
        "denoise",
        clean_samples,
        score_bytes,
        restores=False,
    ),
    Benchmark(
        "charts",
        "synthetic charts, unchanged if possible",
        "none: code draws the charts",
        "kbnet.evaluation.charts",
        "flat, dark, clipped, saturated, graded and finely drawn images; output compared with input, " + _BYTES,
        "denoise",
        chart_samples,
        score_bytes,
        restores=False,
        needs_data=False,
    ),
)

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _TABLE}
"""All benchmarks by name."""


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark with this name.

    Raises:
        InvalidInputError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise InvalidInputError(f"expected a benchmark ({', '.join(BENCHMARKS)}), got {name!r}")
    return BENCHMARKS[name]
