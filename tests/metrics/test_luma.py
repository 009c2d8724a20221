"""MATLAB's Y and OpenCV's gray: every colour against the formula, and the extremes by hand."""

from fractions import Fraction

import numpy as np
import pytest
from skimage.color import rgb2ycbcr

from kbnet.errors import InvalidInputError
from kbnet.metrics import matlab_y, opencv_gray

COLOURS = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def test_y_equals_scikit_images_rounded():
    expected = rgb2ycbcr(COLOURS)[..., 0]
    apart = np.abs(expected % 1 - 0.5) > 1e-6  # at a tie the error of floats decides
    assert apart.mean() > 0.99
    assert np.array_equal(matlab_y(COLOURS)[apart], np.rint(expected[apart]))


def test_y_of_black_white_and_the_primaries():
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert matlab_y(colours).tolist() == [[16, 235, 81, 145, 41]]  # 16 + 65.481, 128.553, 24.966


def test_y_of_every_gray_is_exact_and_rounds_half_up():
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    for value, y in enumerate(matlab_y(grays)[:, 0].tolist()):
        assert y == int(Fraction(219 * value, 255) + 16 + Fraction(1, 2))


def test_gray_is_the_rounded_luma_to_one_level():
    exact = COLOURS @ np.array([0.299, 0.587, 0.114])
    gray = opencv_gray(COLOURS)
    assert np.abs(gray - exact).max() < 0.51
    assert np.array_equal(opencv_gray(np.repeat(gray[..., None], 3, axis=2)), gray)  # a gray stays what it is


def test_gray_of_a_colour_png_is_rounded_down_as_libpng_does():
    gray, read = opencv_gray(COLOURS), opencv_gray(COLOURS, read_from_png=True)
    assert np.array_equal(read, (COLOURS.astype(int) @ [9797, 19234, 3737]) >> 15)
    below = gray.astype(int) - read
    assert {*np.unique(below)} == {0, 1}
    assert 0.4 < below.mean() < 0.6
    grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert opencv_gray(grays, read_from_png=True)[:, 0].tolist() == [*range(256)]


def test_one_channel_comes_back_as_it_is():
    for convert in (matlab_y, opencv_gray):
        assert np.array_equal(convert(COLOURS[..., 0]), COLOURS[..., 0])


@pytest.mark.parametrize("image", [np.zeros((3, 3, 3)), np.zeros((3, 3, 4), np.uint8), np.zeros(3, np.uint8)])
def test_other_images_are_refused(image):
    for convert in (matlab_y, opencv_gray):
        with pytest.raises(InvalidInputError, match="expected uint8 pixels"):
            convert(image)
