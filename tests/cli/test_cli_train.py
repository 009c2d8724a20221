"""`kbnet train` on a recipe of a few steps."""

import os
import signal

import pytest
from cli_files import names, picture

from kbnet.models import load_model
from kbnet.training import Run

RECIPE = """
[model]
preset = "kbnet-nano"
settings = { width = 8, encoder_blocks = [1], decoder_blocks = [1], middle_blocks = 1, bases = 4 }
[degradation]
kind = "gaussian"
sigma = [0, 55]
[[phases]]
steps = 4
patch = 16
batch = 2
[optimizer]
lr = 1e-3
clip_norm = 0.1
[run]
validation_every = 2
"""


@pytest.fixture
def train(kbnet_, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    for seed in range(2):
        picture(tmp_path / "photos" / f"{seed}.png", 256, 256, seed=seed)
    picture(tmp_path / "photos" / "small.png", 8, 8)
    return lambda *options: kbnet_("train", recipe, "--data", tmp_path / "photos", "--run", tmp_path / "run", *options)


def test_a_run_ends_with_weights_and_is_not_started_over(train, kbnet_, tmp_path):
    done = train("--set", "optimizer.lr=2e-3")
    assert (done.code, done.out) == (0, b"")
    lines = done.err.splitlines()
    assert any(line.startswith("kbnet: warning: left out:") and "small.png" in line for line in lines)
    assert "step 4/4, loss " in lines[-2]
    assert "σ25 " in lines[-2]
    weights = tmp_path / "run" / "model.safetensors"
    assert lines[-1] == f"averaged weights: {weights}"
    assert load_model(weights).config.width == 8
    again = train()
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "holds a run already; go on with --resume" in again.err
    assert kbnet_("restore", tmp_path / "photos" / "small.png", "--model", weights, "-q").code == 0


def test_ctrl_c_saves_a_whole_step_and_resume_goes_on(train, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    advance = Run._advance

    def interrupted(run):
        result = advance(run)
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "_advance", interrupted)
            done = train("-q")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert done.err.splitlines()[-1] == (
        f"kbnet: interrupted after step 2 of 4; go on with --resume --run {tmp_path / 'run'}"
    )
    assert "checkpoint.pt" in names(tmp_path / "run")
    assert "model.safetensors" not in names(tmp_path / "run")
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", lambda run: (steps.append(run.step), advance(run))[1])
        assert train("--resume").code == 0
    assert steps == [2, 3]
    assert "model.safetensors" in names(tmp_path / "run")


def test_resume_needs_a_checkpoint(train):
    done = train("--resume")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "start without --resume" in done.err


def test_a_recipe_that_contradicts_itself_is_one_line(train):
    done = train("--set", "optimizer.warmup_steps=9")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "more than the 4 steps" in done.err
