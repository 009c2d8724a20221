"""Camera raw files restored from what the sensor recorded."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet import Restorer, create_model
from kbnet.imaging import read_photo
from kbnet.inference.developing import restore_mosaic, restore_raw
from kbnet.inference.jobs import plan_jobs, run_jobs
from kbnet.inference.look import Look
from kbnet.inference.steps import FROM_RAW_NOTE

sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
from raw_files import dng

SETTINGS = {"width": 8, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,)}


def scene(height=40, width=52):
    rows, cols = np.mgrid[0:height, 0:width] / 60
    return np.stack([0.1 + 0.4 * rows, 0.2 + 0.3 * cols, 0.3 - 0.2 * rows], axis=2)


def restorer(change):
    """Its network for raw files adds a number to every plane."""
    network = create_model("kbnet-nano-raw", **SETTINGS)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.fill_(change)
    photos = Restorer(create_model("kbnet-nano", **SETTINGS))
    photos._raw = Restorer(network)
    return photos


def test_a_network_that_changes_nothing_gives_the_developed_photo():
    photo = read_photo(dng(scene(), shot=1e-3, read=1e-5))
    pixels = restore_raw(restorer(0.0), photo, lambda done, total: None)
    assert np.abs(pixels.astype(int) - photo.pixels).max() < 200  # of 65535; rounded at random


def test_what_the_network_changes_is_developed():
    photo = read_photo(dng(scene(), shot=1e-3, read=1e-5))
    tiles = []
    pixels = restore_raw(restorer(0.1), photo, lambda done, total: tiles.append((done, total)))
    assert tiles == [(1, 1)]
    assert (pixels > photo.pixels).all()
    half = restore_raw(restorer(0.1), photo, lambda done, total: None, Look(strength=0.5))
    middle = (pixels.astype(float) + photo.pixels) / 2
    assert np.abs(half - middle).max() <= 1


def test_no_network_and_no_raw_file_leave_it_to_the_developed_photo():
    photo = read_photo(dng(scene()))
    assert restore_raw(Restorer(create_model("kbnet-nano", **SETTINGS)), photo, lambda done, total: None) is None
    assert restore_raw(restorer(0.0), replace(photo, undeveloped=None), lambda done, total: None) is None


@pytest.mark.parametrize("develops", [True, False])
def test_jobs_say_when_the_noise_was_removed_before_developing(tmp_path, develops):
    (tmp_path / "a.dng").write_bytes(dng(scene(), shot=1e-3))
    work = restorer(0.1)
    develop = (lambda photo, progress: restore_raw(work, photo, progress)) if develops else None
    jobs = plan_jobs([tmp_path / "a.dng"], tmp_path / "a.tif")
    (result,) = run_jobs(jobs, lambda pixels, progress: pixels, develop=develop)
    assert (result.error, result.from_raw, FROM_RAW_NOTE in result.notes) == (None, develops, develops)
    assert (result.change > 0.01) == develops


def test_less_noise_than_in_training_is_left_alone():
    for shot, share in ((1e-6, 0), (3e-5, 0.6), (1e-3, 1)):
        photo = read_photo(dng(scene(), shot=shot, told=True))
        changed, same = (restore_raw(restorer(by), photo, lambda done, total: None) for by in (0.1, 0.0))
        full = restore_raw(restorer(0.1), read_photo(dng(scene(), shot=1e-3, told=True)), lambda done, total: None)
        part = (changed.astype(float) - same).mean() / (full.astype(float) - same).mean()
        assert part == pytest.approx(share, abs=0.25)


def test_the_noise_that_a_file_tells_is_used(monkeypatch):
    from kbnet.imaging import raw

    monkeypatch.setattr("kbnet.inference.developing.estimate_noise", lambda planes: pytest.fail("the file tells it"))
    mosaic = raw.mosaic(dng(scene(), shot=1e-3, read=1e-5, told=True), "a.dng")
    assert np.abs(restore_mosaic(restorer(0.0).raw, mosaic).signal - mosaic.signal).max() < 1e-4
