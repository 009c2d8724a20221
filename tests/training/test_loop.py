"""A whole run in small: the same from the same seed, the same when it was interrupted, and stopped when it diverges."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import assert_same_state, curve, make_photos, recipe, state, train

from kbnet.errors import InvalidInputError, TrainingError
from kbnet.training import Recipe, Run, checkpoint, curves, loop, stepping, validation


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Five tiny photos, one of them held out; validation on crops as tiny."""
    monkeypatch.setattr(validation, "CROP", 16)
    return make_photos(tmp_path / "photos")


def test_two_runs_of_one_seed_agree_and_another_seed_differs(data, tmp_path):
    first, reports = train(tmp_path / "first", data, recipe())
    second, again = train(tmp_path / "second", data, recipe())
    other, _ = train(tmp_path / "other", data, recipe(run={"seed": 2}))
    assert reports == again
    assert curve(tmp_path / "first") == curve(tmp_path / "second")
    assert_same_state(state(first), state(second))
    assert not torch.equal(state(first)["model.first.weight"], state(other)["model.first.weight"])


def test_a_run_with_muon_goes_on_as_if_it_had_not_been_cut_off(data, tmp_path):
    plan = recipe(optimizer={"kind": "muon", "lr": 1e-2, "warmup_steps": 2, "clip_norm": 1.0})
    whole, expected = train(tmp_path / "whole", data, plan)
    assert any(key.startswith("muon.") for key in state(whole))
    assert any(key.startswith("adamw.") for key in state(whole))
    train(tmp_path / "cut", data, plan, stop_at=5)
    resumed, reports = train(tmp_path / "cut", data, plan)
    assert reports == expected[-2:]
    assert_same_state(state(resumed), state(whole))


def test_the_checkpoint_of_another_optimizer_is_refused(data, tmp_path):
    train(tmp_path / "run", data, recipe(), stop_at=3)
    with pytest.raises(TrainingError, match=r"with adamw, but this recipe uses muon; .* model.init"):
        train(tmp_path / "run", data, recipe(optimizer={"kind": "muon", "lr": 1e-2, "clip_norm": 1.0}))


@pytest.mark.parametrize("log_steps", [1, 4])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(stop_at, log_steps, data, tmp_path):
    plan = recipe(run={"log_steps": log_steps})
    whole, expected = train(tmp_path / "whole", data, plan)
    train(tmp_path / "cut", data, plan, stop_at=stop_at)
    resumed, reports = train(tmp_path / "cut", data, plan)
    assert reports[0].step == (stop_at - 1) // 2 * 2 + 1  # after the last checkpoint, which comes after the report
    assert reports == expected[-len(reports) :]
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert_same_state(state(resumed), state(whole))
    assert resumed.best == whole.best


@pytest.mark.slow
def test_the_loader_of_other_processes_changes_nothing(data, tmp_path):
    plain, reports = train(tmp_path / "plain", data, recipe())
    ahead, again = train(tmp_path / "ahead", data, recipe(), workers=2)
    assert reports == again
    assert_same_state(state(plain), state(ahead))


def test_photos_mapped_from_a_cache_change_nothing(data, tmp_path):
    plain, _ = train(tmp_path / "plain", data, recipe())
    mapped, _ = train(tmp_path / "mapped", data, recipe(), memory=0)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 5
    assert_same_state(state(plain), state(mapped))


def test_a_finished_run_started_again_does_nothing_and_returns_its_network(data, tmp_path):
    whole, _ = train(tmp_path / "run", data, recipe())
    again, reports = train(tmp_path / "run", data, recipe())
    assert reports == []
    assert_same_state(state(again), state(whole))


def test_the_checkpoint_of_the_first_trainer_is_gone_on_from(data, tmp_path):
    """It held these keys and no others, and the recipe had these sections."""
    whole, expected = train(tmp_path / "whole", data, recipe())
    train(tmp_path / "run", data, recipe(), stop_at=3)
    kept = checkpoint.load(tmp_path / "run")
    old = json.loads(kept["recipe"])
    for section, fields in {"model": ["init"], "optimizer": ["schedule", "cycles"]}.items():
        old[section] = {key: value for key, value in old[section].items() if key not in fields}
    old["run"] = {key: value for key, value in old["run"].items() if key in ("seed", "ema") or key[:5] == "valid"}
    old["run"].pop("validation_photos")
    old["phases"] = [{key: phase[key] for key in ("steps", "patch", "batch")} for phase in old["phases"]]
    old["degradation"]["sigma"] = [0.0, 55.0]
    old = {key: old[key] for key in ("model", "degradation", "phases", "optimizer", "run")}
    for group in kept["optimizer"]["param_groups"]:
        group["fused"] = None
    state_ = {key: kept[key] for key in ("step", "model", "ema", "optimizer")} | {"recipe": json.dumps(old)}
    checkpoint.save(tmp_path / "run", state_)
    (tmp_path / "run" / curves.NAME).unlink()
    resumed, reports = train(tmp_path / "run", data, recipe())
    assert reports == expected[2:]
    assert_same_state(state(resumed), state(whole))


def test_every_step_is_reported_and_validations_where_the_recipe_says(data, tmp_path):
    _, reports = train(tmp_path / "run", data, recipe())
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6]
    assert {r.steps for r in reports} == {6}
    assert [r.validation is not None for r in reports] == [False, True, False, True, False, True]
    assert reports[-1].validation.scores.keys() == {"sigma 15", "sigma 25", "sigma 50"}
    assert reports[0].lr == pytest.approx(5e-3)
    assert reports[-1].lr == pytest.approx(1e-6)
    assert all(r.grad_norm > 0 and r.rate > 0 and 0 <= r.loader_share <= 1 for r in reports)


def test_the_log_has_the_reports_and_the_validations(data, tmp_path):
    _, reports = train(tmp_path / "run", data, recipe())
    entries = curve(tmp_path / "run")
    steps = [entry for entry in entries if "loss" in entry]
    assert steps == [{"step": r.step, "loss": r.loss, "grad_norm": r.grad_norm, "lr": r.lr} for r in reports]
    scores = {entry["step"]: entry["psnr"] for entry in entries if "psnr" in entry}
    assert scores == {r.step: r.validation.scores for r in reports if r.validation}
    train(tmp_path / "coarse", data, recipe(run={"log_steps": 4}))
    coarse = [entry for entry in curve(tmp_path / "coarse") if "loss" in entry]
    assert [entry["step"] for entry in coarse] == [4, 6]  # and the last
    assert coarse[0]["loss"] == pytest.approx(np.mean([r.loss for r in reports[:4]]))


def test_training_learns(data, tmp_path):
    phases = [{"steps": 60, "patch": 16, "batch": 4}]
    _, reports = train(tmp_path / "run", data, recipe(phases=phases, run={"validation_steps": 100, "ema": 0.5}))
    losses = [r.loss for r in reports]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(data, tmp_path):
    whole, expected = train(tmp_path / "whole", data, recipe(phases=[{"steps": 3, "patch": 8, "batch": 5}]))
    parts, reports = train(
        tmp_path / "parts", data, recipe(phases=[{"steps": 3, "patch": 8, "batch": 5, "accumulate": 3}])
    )
    for a, b in zip(reports, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-4)
    # Adam's first steps have the size of the learning rate whatever the gradient, so its moments are compared.
    for key, tensor in state(whole).items():
        if key.endswith("exp_avg"):
            torch.testing.assert_close(state(parts)[key], tensor, rtol=1e-3, atol=1e-6)


def test_bfloat16_trains_float32_weights_to_about_the_same_loss(data, tmp_path):
    _, expected = train(tmp_path / "float32", data, recipe())
    run, reports = train(tmp_path / "bfloat16", data, recipe(run={"bfloat16": True}))
    assert {parameter.dtype for parameter in run.stepper.model.parameters()} == {torch.float32}
    losses = np.array([(r.loss, e.loss) for r, e in zip(reports, expected, strict=True)])
    assert (losses[:, 0] != losses[:, 1]).all()
    assert losses[:, 0] == pytest.approx(losses[:, 1], rel=0.05)


def test_a_compiled_network_trains_as_it_would_otherwise(data, tmp_path, monkeypatch):
    _, expected = train(tmp_path / "plain", data, recipe())
    seen = []

    def compile_(network):
        def run(degraded):
            seen.append(torch.backends.cuda.matmul.allow_tf32)
            return network(degraded)

        return run

    monkeypatch.setattr(torch, "compile", compile_)  # which takes a minute, and a compiler
    _, reports = train(tmp_path / "compiled", data, recipe(run={"compile": True, "tf32": True}))
    assert reports == expected
    assert seen == [True] * 6  # while it trains
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_average_follows_by_the_decay_that_the_recipe_says(data, tmp_path):
    weights = []
    run = Run(recipe(run={"ema": 0.5}), data, tmp_path / "run", workers=0)
    run.train(lambda progress: weights.append({k: p.detach().clone() for k, p in run.stepper.model.named_parameters()}))
    expected = weights[0]
    for step, later in enumerate(weights[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {key: decay * value + (1 - decay) * later[key] for key, value in expected.items()}
    assert int(run.stepper.ema.n_averaged) == 6
    for key, value in run.averaged().named_parameters():
        torch.testing.assert_close(value, expected[key])


@pytest.mark.parametrize("kind", ["l1", "charbonnier", "psnr"])
def test_every_loss_trains(kind, data, tmp_path):
    _, reports = train(tmp_path / "run", data, recipe(loss={"kind": kind}))
    assert np.isfinite([r.loss for r in reports]).all()


def test_the_trained_network_is_the_averaged_one_in_eval_mode(data, tmp_path):
    run = Run(recipe(), data, tmp_path / "run")
    network = run.train()
    assert not network.training
    assert torch.equal(network.first.weight, run.stepper.ema.module.first.weight)
    assert not torch.equal(network.first.weight, run.stepper.model.first.weight)


def test_the_best_checkpoint_is_that_of_the_best_validation(data, tmp_path, monkeypatch):
    means = iter([20.0, 22.0, 21.0])
    scored = lambda *arguments: validation.Validation({"a": next(means)}, {})  # noqa: E731
    monkeypatch.setattr(validation.Validator, "__call__", scored)
    run, _ = train(tmp_path / "run", data, recipe())
    assert run.best == (4, 22.0)
    assert checkpoint.load(tmp_path / "run", checkpoint.BEST)["step"] == 4
    assert checkpoint.load(tmp_path / "run")["step"] == 6
    # Killed after the checkpoint and before it was kept as the best one:
    (tmp_path / "run" / checkpoint.BEST).unlink()
    kept = checkpoint.load(tmp_path / "run")
    checkpoint.save(tmp_path / "run", kept | {"best": (6, 23.0)})
    assert Run(recipe(), data, tmp_path / "run").best == (6, 23.0)
    assert checkpoint.load(tmp_path / "run", checkpoint.BEST)["step"] == 6


def test_a_run_asked_to_stop_saves_the_whole_step_it_is_at(data, tmp_path):
    whole, expected = train(tmp_path / "whole", data, recipe())
    reports = []
    run = Run(recipe(), data, tmp_path / "run", workers=0)
    run.train(reports.append, lambda: len(reports) == 2)
    assert run.step == 3
    assert checkpoint.load(tmp_path / "run")["step"] == 3
    resumed, more = train(tmp_path / "run", data, recipe())
    assert reports + more == expected
    assert_same_state(state(resumed), state(whole))


def test_photos_held_out_are_not_trained_on(data, tmp_path):
    run = Run(recipe(), data, tmp_path / "run")
    (photos,) = run.patches.sets
    assert photos.names == ["1.png", "2.png", "3.png", "4.png"]
    assert [len(images) for images in run.validator.protocols.values()] == [1, 1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_names_the_step_and_keeps_the_batch(value, data, tmp_path, monkeypatch):
    plan = recipe()
    real = loop.Share.__call__

    def poisoned(share, step):
        clean, degraded = real(share, step)
        return clean, degraded if step < 3 else torch.full_like(degraded, value)

    whole = Run(plan, data, tmp_path / "run", workers=0)
    clean, degraded = whole.batch(3)
    monkeypatch.setattr(loop.Share, "__call__", poisoned)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step 3; lower optimizer\.lr") as caught:
        whole.train()
    assert "\n" not in str(caught.value)
    # What was kept is from before the accident, and the run can go on from there.
    kept = checkpoint.load(tmp_path / "run")
    assert kept["step"] == 2
    assert all(bool(t.isfinite().all()) for t in kept["model"].values())
    batch = load_file(tmp_path / "run" / loop.DIVERGED)
    assert torch.equal(batch["clean"], clean)
    assert torch.equal(batch["degraded"], degraded)
    monkeypatch.undo()
    monkeypatch.setattr(validation, "CROP", 16)
    _, reports = train(tmp_path / "run", data, plan)
    assert [r.step for r in reports] == [3, 4, 5, 6]


def test_a_gradient_that_is_not_finite_stops_the_run_too(data, tmp_path, monkeypatch):
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    run = Run(recipe(), data, tmp_path / "run", workers=0)
    real = stepping.loss_of
    monkeypatch.setattr(stepping, "loss_of", lambda *args: Poison.apply(real(*args)) if run.step == 4 else real(*args))
    with pytest.raises(TrainingError, match=r"the gradient norm became (nan|inf) at step 4"):
        run.train()
    assert checkpoint.load(tmp_path / "run")["step"] == 4
    assert [entry["step"] for entry in curve(tmp_path / "run") if "loss" in entry] == [1, 2, 3, 4]


def test_the_folder_of_another_network_is_refused(data, tmp_path):
    train(tmp_path / "run", data, recipe(), stop_at=3)
    other = recipe().model_dump()
    other["model"]["settings"]["width"] = 8
    with pytest.raises(TrainingError, match="contains a run of kbnet-nano, whose settings differ"):
        Run(Recipe.model_validate(other), data, tmp_path / "run")


def test_a_recipe_changed_between_two_starts_is_warned_of(data, tmp_path, caplog):
    train(tmp_path / "run", data, recipe(), stop_at=3)
    with caplog.at_level(logging.WARNING, "kbnet"):
        Run(recipe(run={"seed": 5}), data, tmp_path / "run")
    assert "the recipe changed since the checkpoint at step 2" in caplog.text


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="found none"):
        Run(recipe(), tmp_path, tmp_path / "run")


def test_photos_too_small_for_the_recipe_are_refused(data, tmp_path):
    larger = recipe(phases=[{"steps": 3, "patch": 64, "batch": 1}])
    with pytest.raises(InvalidInputError, match="expected photos of at least 64 pixels per side"):
        Run(larger, data, tmp_path / "run")


def test_a_batch_that_cannot_be_divided_is_refused(data, tmp_path):
    class Two:
        num_processes = 2

    with pytest.raises(TrainingError, match="a batch of 2 is too small for 2 processes with 2 parts each"):
        Run(recipe(phases=[{"steps": 3, "patch": 8, "batch": 2, "accumulate": 2}]), data, tmp_path / "run", Two())
