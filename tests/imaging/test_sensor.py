"""The noise of a sensor, the transform that makes it uniform, its estimate, and mosaics as planes."""

import numpy as np
import pytest

from kbnet.imaging.sensor import Mosaic, SensorNoise, estimate_noise

LOW, MIDDLE, HIGH = SensorNoise(2e-4, 1e-7), SensorNoise(3.2e-3, 1.6e-5), SensorNoise(2.56e-2, 8e-4)


def noisy(planes, noise, seed=0):
    gaussian = np.random.default_rng(seed).normal(size=planes.shape)
    return (planes + gaussian * np.sqrt(noise.shot * planes + noise.read)).astype(np.float32)


@pytest.mark.parametrize("noise", [LOW, MIDDLE, HIGH, SensorNoise(0, 0), SensorNoise(1e-5, 1e-3)])
def test_signals_come_back(noise):
    signal = np.linspace(0, 1.2, 200, dtype=np.float32)
    stabilised = noise.stabilise(signal)
    assert (stabilised[0], noise.stabilise(np.float32(1))) == pytest.approx((0, 1), abs=1e-4)
    assert noise.signal(stabilised) == pytest.approx(signal, abs=1e-4)
    assert np.all(np.diff(stabilised) > 0)


@pytest.mark.parametrize("noise", [MIDDLE, HIGH])
def test_the_noise_is_the_same_for_all_signals(noise):
    for signal in (0.1, 0.3, 0.8):
        values = noise.stabilise(noisy(np.full((200, 200), signal), noise))
        assert values.std() == pytest.approx(noise.level, rel=0.1)


@pytest.mark.parametrize("noise", [LOW, MIDDLE, HIGH])
def test_an_estimate_of_noise_in_a_picture(noise):
    """Smooth areas, and an area of structure, which isn't noise."""
    rows, cols = np.mgrid[0:256, 0:320] / 256
    planes = np.stack([0.02 + 0.6 * rows * f for f in (0.5, 1, 1, 0.7)], axis=2)
    planes[:, 160:] *= 1 + 0.5 * (np.sin(900 * cols[:, 160:, None]) > 0)
    found = estimate_noise(noisy(planes, noise))
    for signal in (0.05, 0.3):
        true, seen = (one.shot * signal + one.read for one in (noise, found))
        assert seen == pytest.approx(true, rel=0.2)


@pytest.mark.parametrize("size", [(1, 1, 4), (8, 8, 4), (40, 40, 4)])
@pytest.mark.parametrize("signal", [0.0, 0.3, 1.0])
def test_an_estimate_of_a_picture_without_noise_or_too_small(size, signal):
    found = estimate_noise(np.full(size, signal, np.float32))
    assert (found.shot, found.read) == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("red", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (2, 3)])
def test_planes_begin_with_red_and_become_the_same_mosaic(red, size):
    rows, cols = np.mgrid[0 : size[0], 0 : size[1]]
    colour = 2 * ((rows + red[0]) % 2) + (cols + red[1]) % 2
    mosaic = Mosaic((0.1 * colour + 0.001 * rows).astype(np.float32), red)
    planes = mosaic.planes()
    for index in range(4):
        assert planes[:, :, index] == pytest.approx(0.1 * index, abs=0.01)
    assert np.array_equal(mosaic.replaced(planes).signal, mosaic.signal)


def test_clipped_pixels_stay_clipped():
    signal = np.full((4, 4), 0.5, np.float32)
    signal[1, 2] = 1.0
    replaced = Mosaic(signal, (0, 0)).replaced(np.full((2, 2, 4), 0.25, np.float32)).signal
    assert replaced[1, 2] == 1.0
    assert (replaced == 0.25).sum() == 15


def test_an_estimate_of_a_picture_of_a_few_blocks():
    found = estimate_noise(noisy(np.full((20, 26, 4), 0.3), MIDDLE))
    assert found.shot * 0.3 + found.read == pytest.approx(MIDDLE.shot * 0.3 + MIDDLE.read, rel=0.4)
