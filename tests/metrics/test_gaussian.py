"""The Gaussian protocol: its noise bit for bit, and its score by arithmetic."""

import numpy as np
import pytest

from kbnet.metrics import gaussian_scores, noisy

PHOTO = np.random.default_rng(0).integers(0, 256, (31, 40, 3)).astype(np.uint8)


def protocol_noise(shape, sigma):
    """As the published evaluation scripts draw it."""
    np.random.seed(0)  # noqa: NPY002  # the protocol is the legacy generator
    return np.random.normal(0, sigma / 255.0, shape)  # noqa: NPY002


@pytest.mark.parametrize("sigma", [15, 25, 50])
@pytest.mark.parametrize("photo", [PHOTO, PHOTO[..., 0]], ids=["colour", "gray"])
def test_the_noisy_image_is_the_protocols_bit_for_bit(photo, sigma):
    expected = np.float32(photo) / 255.0
    expected += protocol_noise(photo.shape, sigma)
    image = noisy(photo, sigma)
    assert image.dtype == np.float32
    assert np.array_equal(image, expected)


def test_the_noisy_image_is_not_clipped():
    image = noisy(np.array([[0, 255] * 50] * 50, np.uint8), 50)
    assert image.min() < -0.3
    assert image.max() > 1.3


def test_drawing_the_noise_leaves_everyone_elses_random_numbers_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    noisy(PHOTO, 25)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("sigma", [5, 15, 25])
def test_a_restorer_that_does_nothing_scores_what_arithmetic_says(sigma):
    gray = np.full((200, 200), 128, np.uint8)  # far from black and white, so that clipping plays no part
    ((before, after),) = gaussian_scores(lambda image: image, [gray], sigma)
    rounded = np.rint(np.float32(128 / 255) * 255 + protocol_noise(gray.shape, sigma) * 255) - 128
    assert before == after
    assert after == pytest.approx(10 * np.log10(255**2 / np.mean(rounded**2)), abs=1e-3)
    # In the mean, noise of deviation sigma and the rounding's variance of 1/12.
    assert after == pytest.approx(10 * np.log10(255**2 / (sigma**2 + 1 / 12)), abs=0.06)


def test_a_perfect_restorer_scores_infinity_and_each_photo_has_a_pair():
    photos = [PHOTO, PHOTO[:10, :11]]
    clean = iter(photos)
    scores = list(gaussian_scores(lambda image: next(clean) / 255, photos, 25))
    assert [after for _, after in scores] == [float("inf")] * 2
    assert scores[0][0] != scores[1][0]


def test_the_restorer_is_given_the_noisy_image_unclipped_in_float32():
    given = []
    list(gaussian_scores(lambda image: given.append(image) or image, [PHOTO], 50))
    assert given[0].dtype == np.float32
    assert np.array_equal(given[0], noisy(PHOTO, 50))


def test_a_restorer_that_overwrites_its_input_does_not_change_the_score_before_it():
    def destroy(image):
        image[:] = 0
        return image

    ((before, _),) = gaussian_scores(destroy, [PHOTO], 25)
    ((expected, _),) = gaussian_scores(lambda image: image, [PHOTO], 25)
    assert before == expected
