"""Outbreaks are found and undone; what restoration does to a photograph is none."""

import numpy as np
import pytest
import torch

import kbnet
from kbnet.inference.guard import CELL, outbreak_note, outbreaks, undo


def noisy_scene(level=0.5, sigma=25 / 255, size=(100, 130), clipped=True):
    rng = np.random.default_rng(0)
    clean = np.full((*size, 3), level, np.float32)
    noisy = clean + rng.normal(0, sigma, clean.shape).astype(np.float32)
    return clean, noisy.clip(0, 1) if clipped else noisy


@pytest.mark.parametrize("level", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("sigma", [10 / 255, 50 / 255, 75 / 255])
def test_removing_noise_is_no_outbreak_even_where_clipping_biased_it(level, sigma):
    clean, noisy = noisy_scene(level, sigma)
    assert not outbreaks(noisy, clean).any()
    assert undo(noisy, clean) is clean
    assert outbreak_note(noisy, clean) is None


@pytest.mark.parametrize("wrong", [0.4, -9.0, 14.0, np.nan, np.inf])
def test_a_blotch_is_found_named_and_undone(wrong):
    clean, noisy = noisy_scene()
    broken = clean.copy()
    broken[40:70, 70:110, 2] = clean[40:70, 70:110, 2] + wrong
    found = outbreaks(noisy, broken)
    assert found.shape == (100 // CELL, 130 // CELL)
    assert found[1, 2]
    assert not found[2, 0]
    mended = undo(noisy, broken)
    assert np.isfinite(mended).all()
    np.testing.assert_array_equal(mended[40:64, 70:96], noisy[40:64, 70:96])
    np.testing.assert_array_equal(mended[:, :16], clean[:, :16])
    assert not outbreaks(noisy, mended).any()
    note = outbreak_note(noisy, broken, "denoise")
    assert note is not None
    assert "--guard" in note
    assert outbreak_note(noisy, broken, "derain") is None
    assert outbreak_note(noisy, broken, "denoise", guarded=True) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (33, 65), (20, 40, 3)])
def test_notes_take_what_files_hold(dtype, shape):
    white = np.full(shape, np.iinfo(dtype).max, dtype)
    assert outbreak_note(white, white) is None
    assert outbreak_note(white, np.zeros(shape, dtype)).startswith("100% of the image")


class Painting(torch.nn.Module):
    """Passes everything on, but paints a blotch where its input is white."""

    def __init__(self, network):
        super().__init__()
        self.config, self.family, self.input_multiple = network.config, network.family, network.input_multiple

    def forward(self, x, context=None):
        return x - 0.9 * (x > 0.97).float()


def test_the_restorer_undoes_outbreaks_when_asked_to_in_tiles_too():
    painting = Painting(kbnet.create_model("kbnet-nano"))
    photo = np.full((200, 300, 3), 120, np.uint8)
    photo[:, 150:] = 255
    plain = kbnet.Restorer(painting, device="cpu")
    assert plain(photo)[:, 150:].max() < 40
    for tile in (0, 128):
        guarded = kbnet.Restorer(painting, device="cpu", guard=True, tile=tile)
        np.testing.assert_array_equal(guarded(photo), photo)
        assert guarded.describe()["guard"] is True
