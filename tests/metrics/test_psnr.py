"""PSNR against scikit-image and against arithmetic."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from kbnet.errors import InvalidInputError
from kbnet.metrics import mean_absolute_error, psnr, shifted_psnr, to_uint8


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 9, 3)])
def test_psnr_of_bytes_equals_scikit_images(shape):
    rng = np.random.default_rng(0)
    image, reference = (rng.integers(0, 256, shape).astype(np.uint8) for _ in range(2))
    assert psnr(image, reference) == pytest.approx(peak_signal_noise_ratio(reference, image, data_range=255), abs=1e-10)


def test_psnr_of_floats_equals_scikit_images():
    rng = np.random.default_rng(0)
    image, reference = rng.random((8, 9, 3)), rng.random((8, 9, 3))
    assert psnr(image, reference, 1.0) == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=1), abs=1e-10
    )


@pytest.mark.parametrize(("difference", "decibels"), [(1, 48.1308036), (10, 28.1308036), (255, 0.0)])
def test_psnr_of_a_constant_difference_is_what_arithmetic_says(difference, decibels):
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black + np.uint8(difference)) == pytest.approx(decibels, abs=1e-6)
    assert psnr(black + np.uint8(difference), black) == pytest.approx(decibels, abs=1e-6)  # bytes must not wrap around


def test_psnr_of_one_wrong_value_of_many_is_what_arithmetic_says():
    image, reference = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    image[3, 4] = 10
    assert psnr(image, reference) == pytest.approx(10 * np.log10(255**2 / (100 / 100)), abs=1e-9)


def test_equal_images_have_infinite_psnr():
    assert psnr(np.ones((3, 3), np.uint8), np.ones((3, 3), np.uint8)) == float("inf")


@pytest.mark.parametrize("shape", [(3, 4), (3, 3, 1), (1, 3)])
def test_images_of_two_shapes_are_refused_rather_than_broadcast(shape):
    with pytest.raises(InvalidInputError, match="expected images of the same shape"):
        psnr(np.zeros((3, 3)), np.zeros(shape))


def test_rounding_to_bytes_clips_and_rounds_half_to_even():
    values = np.array([-7.0, -0.1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.5, 254.6 / 255, 1.0, 1.1, 80.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 2, 2, 128, 255, 255, 255, 255]


def test_rounding_to_bytes_undoes_the_division_of_every_byte():
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(every.astype(np.float32) / np.float32(255)), every)
    assert np.array_equal(to_uint8(every / 255), every)


def test_mean_absolute_error_is_what_arithmetic_says():
    image, reference = np.array([[0, 10], [20, 250]], np.uint8), np.array([[5, 0], [20, 255]], np.uint8)
    assert mean_absolute_error(image, reference) == (5 + 10 + 0 + 5) / 4
    assert mean_absolute_error(reference, image) == 5
    assert mean_absolute_error(image, image) == 0
    with pytest.raises(InvalidInputError, match="expected images of the same shape"):
        mean_absolute_error(image, np.zeros((2, 3)))


@pytest.mark.parametrize("moved", [(0, 0), (2, -3), (-4, 4)])
def test_a_moved_image_is_found_where_it_was_moved_to(moved):
    reference = np.random.default_rng(0).integers(0, 256, (30, 34)).astype(np.uint8)
    image = np.roll(reference, moved, axis=(0, 1))
    score, shift = shifted_psnr(image, reference, shift=4, border=5)
    assert (score, shift) == (float("inf"), (-moved[0], -moved[1]))


def test_a_shift_is_never_worse_than_none():
    rng = np.random.default_rng(0)
    image, reference = (rng.integers(0, 256, (20, 20, 3)).astype(np.uint8) for _ in range(2))
    inner = psnr(image[3:-3, 3:-3], reference[3:-3, 3:-3])
    assert shifted_psnr(image, reference, shift=0, border=3) == (pytest.approx(inner), (0, 0))
    assert shifted_psnr(image, reference, shift=2, border=3)[0] >= inner


def test_a_border_narrower_than_the_shift_is_refused():
    for settings in ({"shift": 3, "border": 2}, {"shift": 0, "border": 4}):
        with pytest.raises(InvalidInputError, match="border"):
            shifted_psnr(np.zeros((8, 8)), np.zeros((8, 8)), **settings)
