"""The three variants of SSIM against scikit-image, against a plain loop, and by hand."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from kbnet.errors import InvalidInputError
from kbnet.metrics import SSIM_VARIANTS, ssim_3d, ssim_matlab, ssim_uniform

SHAPES = [(11, 11), (23, 40), (16, 19, 3)]


def pair(shape, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 256, shape)
    image = np.clip(reference + rng.normal(0, 30, shape), 0, 255)
    return (image / 255, reference / 255) if dtype is np.float64 else (image.astype(dtype), reference.astype(dtype))


def axis(shape):
    return 2 if len(shape) == 3 else None


@pytest.mark.parametrize("shape", SHAPES)
def test_matlabs_variant_equals_scikit_images_with_matlabs_settings(shape):
    image, reference = pair(shape)
    expected = structural_similarity(
        image,
        reference,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=axis(shape),
    )
    assert ssim_matlab(image, reference) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("peak", [1.0, 2.0])
def test_the_uniform_variant_equals_scikit_images_defaults(shape, peak):
    image, reference = pair(shape, np.float64)
    expected = structural_similarity(image, reference, data_range=peak, channel_axis=axis(shape))
    assert ssim_uniform(image, reference, peak) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 7), (6, 5, 3)])
def test_the_3d_variant_equals_a_sum_written_out(shape):
    image, reference = (np.atleast_3d(a).astype(float) for a in pair(shape))
    side = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    side /= side.sum()
    window = side[:, None, None] * side[:, None] * side

    def mean(volume):
        wide = np.pad(volume, 5, mode="edge")
        return np.array([[[np.sum(window * wide[i:i + 11, j:j + 11, k:k + 11]) for k in range(volume.shape[2])]
                          for j in range(volume.shape[1])] for i in range(volume.shape[0])])  # fmt: skip

    x, y = mean(image), mean(reference)
    covariance = mean(image * reference) - x * y
    variances = mean(image**2) - x**2 + mean(reference**2) - y**2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = np.mean((2 * x * y + c1) * (2 * covariance + c2) / ((x**2 + y**2 + c1) * (variances + c2)))
    given = (image, reference) if len(shape) == 3 else (image[..., 0], reference[..., 0])
    assert ssim_3d(*given) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("variant", SSIM_VARIANTS.values(), ids=SSIM_VARIANTS)
def test_flat_images_have_the_ratio_of_their_means(variant):
    image, reference = np.full((12, 12, 3), 100, np.uint8), np.full((12, 12, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert variant(image, reference) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-9)


@pytest.mark.parametrize("variant", SSIM_VARIANTS.values(), ids=SSIM_VARIANTS)
def test_every_variant_is_1_for_equal_images_symmetric_and_lower_for_worse_ones(variant):
    image, reference = pair((20, 21, 3))
    worse = np.clip(reference + np.random.default_rng(1).normal(0, 80, reference.shape), 0, 255).astype(np.uint8)
    assert variant(reference, reference) == pytest.approx(1, abs=1e-12)
    assert variant(image, reference) == pytest.approx(variant(reference, image), abs=1e-12)
    assert variant(worse, reference) < variant(image, reference) < 1


def test_the_variants_differ_so_that_their_names_matter():
    values = [variant(*pair((24, 24, 3))) for variant in SSIM_VARIANTS.values()]
    assert len({round(value, 3) for value in values}) == 3


@pytest.mark.parametrize(("variant", "least"), [(ssim_matlab, 11), (ssim_uniform, 7)])
def test_images_smaller_than_the_window_are_refused(variant, least):
    with pytest.raises(InvalidInputError, match=f"at least {least} pixels"):
        variant(np.zeros((least - 1, 30)), np.zeros((least - 1, 30)))
    assert variant(np.zeros((least, least)), np.zeros((least, least))) == 1


def test_images_of_two_shapes_are_refused():
    for variant in SSIM_VARIANTS.values():
        with pytest.raises(InvalidInputError, match="the same shape"):
            variant(np.zeros((20, 20)), np.zeros((20, 20, 3)))
