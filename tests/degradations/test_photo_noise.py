"""The mixture of all kinds of noise: what each share means, and that resizing changes the noise and not the photo."""

import pytest
import torch
from degradation_images import generator, scene

from kbnet.degradations import CameraNoise, GaussianNoise, PhotoNoise
from kbnet.degradations.camera import sharpen_noise
from kbnet.degradations.photo_noise import resized_noise

SIZE = 64


def on_levels(image):
    return torch.allclose(image * 255, (image * 255).round(), atol=1e-3) and 0 <= image.min() <= image.max() <= 1


def test_gaussian_calls_are_quantised_in_their_share_and_camera_calls_always():
    clean = scene(3, SIZE, SIZE)
    gaussian = PhotoNoise(camera_share=0, quantised_share=0.5, gaussian=GaussianNoise(sigma=(20, 55)))
    quantised = sum(on_levels(gaussian(clean, generator(seed))) for seed in range(60))
    assert 18 <= quantised <= 42
    camera = PhotoNoise(camera_share=1, quantised_share=0, resized_share=1)
    assert all(on_levels(camera(clean, generator(seed))) for seed in range(10))


def test_jpeg_follows_the_noise_of_quantised_calls():
    clean = torch.full((3, SIZE, SIZE), 0.5)
    settings = {"camera_share": 0, "resized_share": 0, "quantised_share": 1, "gaussian": GaussianNoise(sigma=25)}
    plain, saved = (
        PhotoNoise(**settings, jpeg_share=share, jpeg_quality=40)(clean, generator(3)) - clean for share in (0, 1)
    )
    assert plain.std() * 255 == pytest.approx(25, rel=0.05)
    assert saved.std() < 0.8 * plain.std()  # a JPEG drops most of the fine noise


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.5])
def test_resizing_leaves_the_photo_and_correlates_the_noise(factor):
    clean = scene(3, SIZE, SIZE)
    same = resized_noise(clean, GaussianNoise(sigma=0), factor, generator())
    assert torch.allclose(same, clean, atol=1e-6)
    flat = torch.full((3, 256, 256), 0.5)
    noise = (resized_noise(flat, GaussianNoise(sigma=20), factor, generator()) - flat).squeeze()
    neighbours = torch.corrcoef(torch.stack([noise[:, :, 1:].flatten(), noise[:, :, :-1].flatten()]))[0, 1]
    if factor == 1.0:
        assert abs(float(neighbours)) < 0.02
    else:
        assert float(neighbours) > 0.1
    assert noise.std() * 255 < 20.5


def test_sharpening_makes_fine_noise_stronger_and_leaves_flat_areas():
    noise = torch.randn(3, SIZE, SIZE, generator=generator())
    sharpened = sharpen_noise(noise, 0.8, 1.0)
    assert sharpened.std() > 1.4 * noise.std()
    assert torch.allclose(sharpen_noise(torch.ones(3, 16, 16), 0.8, 1.0), torch.ones(3, 16, 16), atol=1e-5)
    clean = scene(3, SIZE, SIZE)
    fixed = {"shot": (1e-2, 1e-2), "smoothed_share": 0, "jpeg_share": 0, "fine_share": 0}
    plain = CameraNoise(**fixed)(clean, generator(5)) - clean
    sharp = CameraNoise(**fixed, sharpened_share=1, sharpening=(1, 1))(clean, generator(5)) - clean
    assert sharp.std() > 1.2 * plain.std()
