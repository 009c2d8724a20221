"""The blur protocol: borders that are true, light that adds up, kernels that are what they were."""

import hashlib

import numpy as np
import pytest
import torch
from evaluation_files import save, texture
from scipy.io import savemat

from kbnet.degradations.blur import to_linear
from kbnet.errors import InvalidInputError
from kbnet.evaluation import Request, find_benchmark
from kbnet.evaluation.blurring import blurred, describe_kernels, drawn_kernels, kernels_from
from kbnet.metrics import psnr, to_uint8


def test_the_drawn_kernels_never_change():
    kinds = drawn_kernels()
    assert {kind: len(kernels) for kind, kernels in kinds.items()} == {"defocus": 8, "motion": 8}
    digest = hashlib.sha256()
    for kernel in (k for kernels in kinds.values() for k in kernels):
        assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
        assert float(kernel.min()) >= 0
        digest.update(np.rint(kernel.numpy() * 1e4).astype(np.int32).tobytes())
    assert digest.hexdigest()[:16] == "3b2a3c776ff93279"


def test_a_kernel_of_one_point_leaves_the_photo_and_only_noise_is_added():
    clean = texture(100, 100)
    image, target = blurred(clean, torch.ones(1, 1), 0.0)
    assert np.array_equal(to_uint8(image), clean)
    assert np.array_equal(target, clean)
    noisy, _ = blurred(clean, torch.ones(1, 1), 2.0)
    assert psnr(to_uint8(noisy), clean) == pytest.approx(10 * np.log10(255**2 / (2**2 + 1 / 12)), abs=0.15)
    assert np.array_equal(noisy, blurred(clean, torch.ones(1, 1), 2.0)[0])


def test_light_is_averaged_and_not_its_code_values():
    halves = np.zeros((41, 60), np.uint8)
    halves[:, ::2] = 255
    kernel = torch.tensor([[0.25, 0.5, 0.25]])
    image, target = blurred(halves, kernel, 0.0)
    assert image.shape == target.shape == (41, 58)
    # half the light of white is code value 188 and not 128
    assert float(to_linear(torch.tensor(188 / 255))) == pytest.approx(0.5, abs=4e-3)
    assert np.unique(to_uint8(image)).tolist() == [188]


def test_no_pixel_within_the_borders_knows_what_lies_outside():
    clean = texture(60, 64)
    kernel = drawn_kernels()["motion"][3]
    reach = kernel.shape[0] // 2
    wide = np.pad(clean, ((20, 20), (20, 20), (0, 0)), constant_values=255)
    image, target = blurred(clean, kernel, 0.0)
    within, _ = blurred(wide, kernel, 0.0)
    assert np.array_equal(target, clean[reach:-reach, reach:-reach])
    assert np.array_equal(image, within[20 : 20 + image.shape[0], 20 : 20 + image.shape[1]])


def test_every_photo_takes_one_kernel_of_each_kind_in_turn(tmp_path):
    for number in range(3):
        save(tmp_path / "photos" / f"{number}.png", texture(80, 80, seed=number))
    (tmp_path / "kernels").mkdir()
    for name, side in (("d_1", 3), ("d_2", 5), ("m_1", 7), ("g_1", 9)):
        savemat(tmp_path / "kernels" / f"{name}.mat", {"kernel": np.full((side, side), 1 / side**2)})
    assert {k: [len(x) for x in v] for k, v in kernels_from(tmp_path / "kernels").items()} == {
        "defocus": [3, 5],
        "motion": [7],
    }
    request = Request(tmp_path / "photos", 3, (1.0,), tmp_path / "kernels")
    samples = find_benchmark("blur").collect(request)
    assert [s.name for s in samples] == [f"{kind}/{n}" for kind in ("defocus", "motion") for n in range(3)]
    assert [s.load()[1].shape[0] for s in samples] == [78, 76, 78, 74, 74, 74]
    assert samples[0].groups == ("defocus", "all")
    told = describe_kernels(tmp_path / "kernels")
    assert (told["kernels"], told["defocus"], told["motion"]) == ("kernels", 2, 1)


def test_kernels_without_a_kind_in_their_names_are_all_taken(tmp_path):
    savemat(tmp_path / "any.mat", {"kernel": np.ones((3, 3))})
    assert [*kernels_from(tmp_path / "any.mat")] == ["kernels"]
    with pytest.raises(InvalidInputError, match="no blur kernels"):
        kernels_from(save(tmp_path / "empty" / "x" / "1.png", texture()).parent.parent)


def test_a_photo_smaller_than_a_kernels_reach_is_refused():
    with pytest.raises(InvalidInputError, match="must leave at least 32 pixels per side"):
        blurred(texture(39, 80), torch.full((9, 11), 1 / 99), 0.0)
