"""Camera noise: the pipeline backward and forward, the mosaic, and noise statistics against theory."""

import math

import pytest
import torch
from degradation_images import generator, psnr, scene

from kbnet.degradations import CameraNoise
from kbnet.degradations import raw as pipeline
from kbnet.degradations.camera import camera_noise, read_variance, sensor_noise, smooth_noise

PLAIN = pipeline.Camera((1.0, 1.0, 1.0), torch.eye(3), gamma=1.0, tone=0.0)


def cameras(count=12):
    return [pipeline.random_camera(generator(seed), gamma=(1.5, 2.4)) for seed in range(count)]


def muted(channels=3, height=64, width=72):
    """Without saturated colours and highlights, which no camera of these can have made and so none gives back."""
    gray = scene(1, height, width).expand(channels, -1, -1)
    return 0.1 + 0.6 * (0.75 * gray + 0.25 * scene(channels, height, width))


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.3, 2.5])
def test_tone_curves_are_undone_and_go_from_black_to_white(strength):
    x = torch.linspace(0, 1, 257)
    curve = pipeline.tone_curve(x, strength)
    assert torch.allclose(pipeline.inverse_tone_curve(curve, strength), x, atol=2e-4)
    assert torch.allclose(curve[[0, 128, 256]], torch.tensor([0, 0.5, 1]), atol=1e-6)
    assert (curve.diff() > 0).all()


def test_the_inverse_tone_curve_never_leaves_its_range():
    ends = torch.tensor([0.0, 1.0])
    for step in range(1, 400):
        linear = pipeline.inverse_tone_curve(ends, 0.01 * step)
        assert 0 <= linear[0] < 1e-5
        assert 1 - 1e-5 < linear[1] <= 1


def test_the_tone_curve_of_strength_1_3_is_near_the_papers_smoothstep():
    x = torch.linspace(0, 1, 257)
    assert (pipeline.tone_curve(x, 1.3) - (3 * x**2 - 2 * x**3)).abs().max() < 0.05


def test_colour_corrections_keep_gray_and_undo_real_cameras():
    for one in range(4):
        matrix = pipeline.colour_correction(torch.eye(4)[one])
        assert torch.allclose(matrix.sum(1), torch.ones(3), atol=1e-5)
        # a correction makes colours stronger: more of the own channel, less of the others
        assert (matrix.diagonal() > 1).all()
    assert torch.allclose(pipeline.colour_correction(torch.ones(4), 0.0), torch.eye(3), atol=1e-6)


def test_processing_undoes_unprocessing():
    clean = muted()
    for camera in cameras():
        raw = pipeline.unprocess(clean, camera)
        assert raw.max() <= 1
        assert (pipeline.process(raw, camera) - clean).abs().max() < 2e-3


def test_white_is_white_on_the_sensor_too():
    for camera in cameras():
        raw = pipeline.unprocess(torch.ones(3, 1, 1), camera)
        assert torch.allclose(raw, torch.ones(3, 1, 1), atol=1e-3)
        gray = pipeline.unprocess(torch.full((3, 1, 1), 0.5), camera)
        assert gray.argmax() == 1  # green is the most sensitive


@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bayer_mosaic_sees_one_red_two_green_one_blue(phase):
    masks = pipeline.bayer_masks(8, 6, phase)
    assert masks.sum((1, 2)).tolist() == [12, 24, 12]
    assert torch.equal(masks.sum(0), torch.ones(8, 6))
    assert masks[0, phase[0], phase[1]] == 1
    colours = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1)
    assert sorted(pipeline.mosaic(colours.expand(3, 8, 6), masks)[:2, :2].flatten().tolist()) == pytest.approx(
        [0.2, 0.5, 0.5, 0.8]
    )


@pytest.mark.parametrize("demosaic", [pipeline.demosaic_bilinear, pipeline.demosaic_malvar])
@pytest.mark.parametrize("phase", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_demosaicing_keeps_flat_colours_and_ramps_of_gray(demosaic, phase):
    masks = pipeline.bayer_masks(16, 18, phase)
    flat = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1).expand(3, 16, 18)
    ramp = (torch.arange(16)[:, None] * 0.02 + torch.arange(18) * 0.01).expand(3, 16, 18)
    for image in (flat, ramp):
        back = demosaic(pipeline.mosaic(image, masks), masks)
        assert torch.allclose(back[:, 2:-2, 2:-2], image[:, 2:-2, 2:-2], atol=1e-6)
    values = torch.rand(16, 18, generator=generator())
    seen = (demosaic(values, masks) * masks).sum(0)
    assert torch.allclose(seen[2:-2, 2:-2], values[2:-2, 2:-2], atol=1e-6)


def test_gradients_make_a_better_demosaic_than_neighbours_alone():
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 66, 66, generator=generator()), 3, 1).expand(3, -1, -1)
    masks = pipeline.bayer_masks(64, 64)
    seen = pipeline.mosaic(image, masks)
    bilinear, malvar = (
        psnr(f(seen, masks)[:, 4:-4, 4:-4], image[:, 4:-4, 4:-4])
        for f in (pipeline.demosaic_bilinear, pipeline.demosaic_malvar)
    )
    assert malvar > bilinear + 2


@pytest.mark.parametrize("value", [0.0, 0.1, 0.8])
def test_sensor_noise_has_the_variance_of_shots_and_reading(value):
    shot, read = 4e-3, 1e-4
    noise = sensor_noise(torch.full((512, 512), value), shot, read, generator())
    assert abs(noise.mean()) < 5 * float(noise.std()) / 512
    assert noise.var() == pytest.approx(shot * value + read, rel=0.02)


def test_read_noise_follows_shot_noise_log_linearly():
    assert read_variance(1e-3) == pytest.approx(math.exp(2.18 * math.log(1e-3) + 1.2))
    assert read_variance(1e-2) > 50 * read_variance(1e-3)
    assert read_variance(1e-3, 1.0) > read_variance(1e-3) > read_variance(1e-3, -1.0)


@pytest.mark.parametrize("value", [0.2, 0.5, 0.8])
def test_a_camera_without_processing_gives_the_sensors_noise(value):
    clean = torch.full((3, 256, 256), value)
    noise = camera_noise(clean, PLAIN, 2e-3, 1e-4, generator(), phase=None) - clean
    assert noise.var() == pytest.approx(2e-3 * value + 1e-4, rel=0.03)
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.02


def test_adaptive_demosaicing_lies_between_the_two_methods():
    gained, clean = pipeline.Camera((2.0, 1.0, 1.6), torch.eye(3), gamma=1.0), torch.full((3, 40, 50), 0.4)
    none, half, full = (camera_noise(clean, gained, 1e-3, 1e-5, generator(), malvar=m) for m in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (none + full) / 2, rtol=0, atol=1e-5)
    calls = {"shot": 1e-3, "smoothed_share": 0, "jpeg_share": 0, "fine_share": 0}
    plain = CameraNoise(**calls, adaptive_share=0)(clean, generator())
    assert not torch.equal(plain, CameraNoise(**calls, adaptive_share=1)(clean, generator()))


@pytest.mark.parametrize("malvar", [0.0, 0.5, 1.0])
def test_demosaiced_noise_is_correlated_and_green_is_quieter(malvar):
    gained = pipeline.Camera((2.0, 1.0, 1.6), torch.eye(3), gamma=1.0)
    clean = torch.full((3, 256, 256), 0.4)
    noise = camera_noise(clean, gained, 1e-3, 1e-5, generator(), malvar=malvar) - clean
    red = noise[0] - noise[0].mean()
    assert (red[:, 1:] * red[:, :-1]).mean() / red.var() > 0.2
    assert noise[0].std() > noise[1].std() < noise[2].std()


def test_without_noise_the_photo_comes_back():
    clean = scene()
    for camera in cameras():
        for phase in (None, (0, 1)):
            assert torch.allclose(camera_noise(clean, camera, 0.0, 0.0, generator(), phase=phase), clean, atol=1e-5)


def test_noise_gets_weaker_where_the_tone_curve_is_flat():
    camera = pipeline.Camera((2.0, 1.0, 1.6), pipeline.colour_correction(torch.ones(4)), tone=1.5)
    deviation = []
    for value in (0.5, 0.98):
        clean = torch.full((3, 64, 64), value)
        deviation.append(float((camera_noise(clean, camera, 2e-3, 1e-5, generator()) - clean).std()))
    assert deviation[1] < deviation[0] / 2


def test_dark_areas_get_darker_with_a_pedestal_and_brighter_without():
    # the curve is concave, so symmetric noise lowers the mean; noise clipped at black raises it
    camera = pipeline.Camera((2.0, 1.0, 1.6), pipeline.colour_correction(torch.ones(4)))
    clean = torch.full((3, 192, 192), 0.2)
    change = [
        float((camera_noise(clean, camera, 3e-2, 4e-3, generator(), pedestal=pedestal) - clean).mean())
        for pedestal in (True, False)
    ]
    assert change[0] < -0.01
    assert change[1] > 0.01


def test_grain_is_left_unblurred_by_the_cameras_denoising():
    noise = torch.randn(1, 128, 128, generator=generator()).expand(3, -1, -1)  # brightness alone
    fine, half, blurred = (smooth_noise(noise, 2.0, 2.0, grain=grain) for grain in (1.0, 0.5, 0.0))
    assert torch.allclose(fine, noise, atol=1e-5)
    assert torch.allclose(half, (noise + blurred) / 2, atol=1e-5)


def test_smoothing_leaves_less_noise_and_blotches_of_colour():
    noise = torch.randn(3, 128, 128, generator=generator())
    assert torch.allclose(smooth_noise(noise, 0, 0), noise, atol=1e-6)
    smooth = smooth_noise(noise, 0.5, 2.0, 0.8)
    colour = smooth[0] - smooth.mean(0)
    brightness = smooth.mean(0)

    def neighbours(x):
        return float((x[:, 2:] * x[:, :-2]).mean() / x.square().mean())

    assert smooth.std() < noise.std()
    assert neighbours(colour) > 0.5 > neighbours(brightness)
    constant = torch.full((3, 9, 9), 0.3)
    assert torch.allclose(smooth_noise(constant, 1.0, 3.0), constant, atol=1e-6)


def test_gray_photos_get_gray_noise_and_gray_worlds_stay_gray_on_average():
    gray = torch.full((1, 96, 96), 100 / 255)
    degraded = CameraNoise(shot=2e-3, jpeg_share=0, colour=0)(gray, generator())
    assert degraded.shape == gray.shape
    assert 0.005 < degraded.std() < 0.1
    assert degraded.mean() == pytest.approx(100 / 255, abs=0.01)


def test_jpeg_and_smoothing_change_what_comes_out():
    clean = scene()
    plain = {"shot": 1e-3, "smoothed_share": 0, "jpeg_share": 0}
    first = CameraNoise(**plain)(clean, generator())
    assert not torch.equal(first, CameraNoise(**plain | {"jpeg_share": 1})(clean, generator()))
    assert not torch.equal(first, CameraNoise(**plain | {"smoothed_share": 1})(clean, generator()))
