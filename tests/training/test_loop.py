"""A whole run in small: the same from the same seed, the same when it was interrupted, and stopped when it diverges."""

import logging

import numpy as np
import pytest
import torch

from kbnet.errors import InvalidInputError, TrainingError
from kbnet.imaging import Photo, write_photo
from kbnet.training import Recipe, Run, checkpoint, loop


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Five tiny photos, one of them held out; validation on crops as tiny."""
    monkeypatch.setattr(loop, "VALIDATION_CROP", 16)
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        smooth = rng.integers(0, 256, (1, 1, 3)) + np.arange(24)[:, None, None] * 2
        write_photo(Photo(np.clip(smooth + np.zeros((24, 20, 3)), 0, 255).astype(np.uint8)), folder / f"{i}.png")
    return folder


def recipe(**run):
    """Six steps of two phases, with a checkpoint after every second step."""
    table = {
        "model": {
            "preset": "kbnet-nano",
            "settings": {"width": 4, "encoder_blocks": [1], "middle_blocks": 0, "decoder_blocks": [1], "bases": 2},
        },
        "degradation": {"kind": "gaussian", "sigma": [0, 55]},
        "phases": [{"steps": 3, "patch": 8, "batch": 3}, {"steps": 3, "patch": 16, "batch": 2}],
        "optimizer": {"lr": 1e-2, "warmup_steps": 2, "clip_norm": 1.0},
        "run": {"seed": 1, "ema": 0.9, "validation_every": 5, "validation_steps": 2} | run,
    }
    return Recipe.model_validate(table)


class Stopped(Exception):
    """Stands for the power cut."""


def train(folder, data, recipe, stop_at=None):
    """Train, noting each step's report; `stop_at` cuts the run off after that step."""
    reports = []

    def report(progress):
        reports.append(progress)
        if progress.step == stop_at:
            raise Stopped

    run = Run(recipe, data, folder)
    try:
        run.train(report)
    except Stopped:
        assert stop_at is not None
    return run, reports


def state(run):
    tensors = {f"model.{k}": v for k, v in run.model.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in run.ema.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    return {key: tensor.clone() for key, tensor in tensors.items()}


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def test_two_runs_of_one_seed_agree_and_another_seed_differs(data, tmp_path):
    first, reports = train(tmp_path / "first", data, recipe())
    second, again = train(tmp_path / "second", data, recipe())
    other, _ = train(tmp_path / "other", data, recipe(seed=2))
    assert reports == again
    assert_same_state(state(first), state(second))
    assert not torch.equal(state(first)["model.first.weight"], state(other)["model.first.weight"])


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(stop_at, data, tmp_path):
    whole, expected = train(tmp_path / "whole", data, recipe())
    train(tmp_path / "cut", data, recipe(), stop_at=stop_at)
    resumed, reports = train(tmp_path / "cut", data, recipe())
    assert reports[0].step == (stop_at - 1) // 2 * 2 + 1  # after the last checkpoint, which comes after the report
    assert reports == expected[-len(reports) :]
    assert_same_state(state(resumed), state(whole))


def test_a_finished_run_started_again_does_nothing_and_returns_its_network(data, tmp_path):
    whole, _ = train(tmp_path / "run", data, recipe())
    again, reports = train(tmp_path / "run", data, recipe())
    assert reports == []
    assert_same_state(state(again), state(whole))


def test_every_step_is_reported_and_validations_where_the_recipe_says(data, tmp_path):
    _, reports = train(tmp_path / "run", data, recipe())
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6]
    assert {r.steps for r in reports} == {6}
    assert [r.psnr is not None for r in reports] == [False, True, False, True, False, True]
    assert reports[-1].psnr.keys() == {15.0, 25.0, 50.0}
    assert reports[0].lr == pytest.approx(5e-3)
    assert reports[-1].lr == pytest.approx(1e-6)


def test_training_learns(data, tmp_path):
    settings = recipe(validation_steps=100, ema=0.5)
    phases = [{"steps": 60, "patch": 16, "batch": 4}]
    longer = Recipe.model_validate(settings.model_dump() | {"phases": phases})
    _, reports = train(tmp_path / "run", data, longer)
    losses = [r.loss for r in reports]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_the_trained_network_is_the_averaged_one_in_eval_mode(data, tmp_path):
    run = Run(recipe(), data, tmp_path / "run")
    network = run.train()
    assert not network.training
    assert torch.equal(network.first.weight, run.ema.module.first.weight)
    assert not torch.equal(network.first.weight, run.model.first.weight)


def test_a_batch_depends_on_the_step_alone(data, tmp_path):
    run = Run(recipe(), data, tmp_path / "run")
    clean, degraded = run.batch(2)
    run.batch(4)
    torch.manual_seed(99)
    again, degraded_again = run.batch(2)
    assert torch.equal(clean, again)
    assert torch.equal(degraded, degraded_again)
    assert clean.shape == (3, 3, 8, 8)
    assert run.batch(3)[0].shape == (2, 3, 16, 16)
    assert not torch.equal(clean, run.batch(1)[0])


def test_photos_held_out_are_not_trained_on(data, tmp_path):
    run = Run(recipe(), data, tmp_path / "run")
    assert (len(run.patches.photos), len(run.validation)) == (4, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(value, data, tmp_path, monkeypatch):
    real, calls = loop.gaussian_noise, iter(range(100))
    poison = lambda clean, *rest: real(clean, *rest) if next(calls) < 3 else torch.full_like(clean, value)  # noqa: E731
    monkeypatch.setattr(loop, "gaussian_noise", poison)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step 3; lower optimizer\.lr") as caught:
        Run(recipe(), data, tmp_path / "run").train()
    assert "\n" not in str(caught.value)
    # What was kept is from before the accident, and the run can go on from there.
    kept = checkpoint.load(tmp_path / "run")
    assert kept["step"] == 2
    assert all(bool(t.isfinite().all()) for t in kept["model"].values())
    monkeypatch.undo()
    monkeypatch.setattr(loop, "VALIDATION_CROP", 16)
    _, reports = train(tmp_path / "run", data, recipe())
    assert [r.step for r in reports] == [3, 4, 5, 6]


def test_the_folder_of_another_network_is_refused(data, tmp_path):
    train(tmp_path / "run", data, recipe(), stop_at=3)
    other = recipe().model_dump()
    other["model"]["settings"]["width"] = 8
    with pytest.raises(TrainingError, match="holds a run of kbnet-nano, with other settings"):
        Run(Recipe.model_validate(other), data, tmp_path / "run")


def test_a_recipe_changed_between_two_starts_is_warned_of(data, tmp_path, caplog):
    train(tmp_path / "run", data, recipe(), stop_at=3)
    with caplog.at_level(logging.WARNING, "kbnet"):
        Run(recipe(seed=5), data, tmp_path / "run")
    assert "the recipe changed since the checkpoint at step 2" in caplog.text


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="found none"):
        Run(recipe(), tmp_path, tmp_path / "run")


def test_photos_too_small_for_the_recipe_are_refused(data, tmp_path):
    larger = Recipe.model_validate(recipe().model_dump() | {"phases": [{"steps": 3, "patch": 64, "batch": 1}]})
    with pytest.raises(InvalidInputError, match="expected photos of at least 64 pixels a side"):
        Run(larger, data, tmp_path / "run")
