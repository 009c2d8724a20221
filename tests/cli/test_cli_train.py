"""`kbnet train` on a recipe of a few steps."""

import os
import shutil
import signal

import pytest
from cli_files import names, picture

from kbnet.models import load_model
from kbnet.models.usage import Usage, write_usage
from kbnet.training import checkpoint
from kbnet.training.stepping import Stepper

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
    for seed in range(3):
        picture(tmp_path / "photos" / f"{seed}.png", 256, 256, seed=seed)
    picture(tmp_path / "photos" / "0small.png", 8, 8)  # second, and so not held out
    place = ("--data", tmp_path / "photos", "--run", tmp_path / "run", "--workers", 0)
    return lambda *options: kbnet_("train", recipe, *place, *options)


def test_a_run_ends_with_weights_and_is_not_started_over(train, kbnet_, tmp_path):
    done = train("--set", "optimizer.lr=2e-3")
    assert (done.code, done.out) == (0, b"")
    lines = done.err.splitlines()
    assert any(line.startswith("kbnet: warning: skipped:") and "0small.png" in line for line in lines)
    assert "step 4/4, loss " in lines[-2]
    assert "sigma 25 " in lines[-2]
    assert "steps/s, loader " in lines[-2]
    weights = tmp_path / "run" / "model.safetensors"
    assert lines[-1] == f"averaged weights: {weights}"
    assert load_model(weights).config.width == 8
    again = train()
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "already contains a run; add --resume to continue it" in again.err
    assert kbnet_("restore", tmp_path / "photos" / "0small.png", "--model", weights, "-q").code == 0


@pytest.mark.slow
def test_ctrl_c_saves_a_whole_step_and_resume_goes_on(train, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    advance = Stepper.__call__

    def interrupted(run, *batch):
        result = advance(run, *batch)
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "__call__", interrupted)
            done = train("-q")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert done.err.splitlines()[-1] == (
        f"kbnet: interrupted after step 2 of 4; continue with --resume --run {tmp_path / 'run'}"
    )
    assert "checkpoint.pt" in names(tmp_path / "run")
    assert "model.safetensors" not in names(tmp_path / "run")
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", lambda run, *batch: (steps.append(run.step), advance(run, *batch))[1])
        assert train("--resume").code == 0
    assert steps == [2, 3]
    assert "model.safetensors" in names(tmp_path / "run")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "best.safetensors", "kbnet.json", "metrics.jsonl", "checkpoint-previous.pt"]
)
def test_a_folder_with_files_of_a_run_is_left_alone(name, train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_bytes(b"mine")
    for options, says in {(): "or move them away", ("--resume",): "and start without --resume"}.items():
        done = train(*options)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"found {name} but no checkpoint.pt in {tmp_path / 'run'}; choose another --run folder" in done.err
        assert says in done.err
    assert (tmp_path / "run" / name).read_bytes() == b"mine"
    assert names(tmp_path / "run") == [name]


def test_a_start_that_failed_leaves_nothing_in_the_way_of_the_next(train, tmp_path, tiny):
    start = tmp_path / "start" / "model.safetensors"
    start.parent.mkdir()
    shutil.copy(tiny, start)
    write_usage(Usage(context="local"), start.parent)
    settings = ("--set", f"model.init={start}")
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert train(*settings).code == 2
    assert names(tmp_path / "run") == []
    (tmp_path / "elsewhere").rename(tmp_path / "photos")
    assert train(*settings).code == 0
    assert '"context": "local"' in (tmp_path / "run" / "kbnet.json").read_text()


def test_best_weights_are_removed_once_the_last_ones_are_better(train, tmp_path, monkeypatch):
    from kbnet.training import validation

    means = iter([30.0, 20.0, 40.0])
    scored = lambda *arguments: validation.Validation({"a": next(means)}, {})  # noqa: E731
    monkeypatch.setattr(validation.Validator, "__call__", scored)
    assert train("--set", "run.validation_steps=2").code == 0
    assert "best.safetensors" in names(tmp_path / "run")
    done = train("--resume", "--set", "phases.0.steps=6", "--set", "run.validation_steps=6")
    assert done.code == 0
    assert "best.safetensors" not in names(tmp_path / "run")
    assert "model.safetensors" in names(tmp_path / "run")


def test_best_weights_of_other_photos_are_not_written(train, tmp_path, monkeypatch):
    from kbnet.training import validation

    means = iter([30.0, 20.0])
    scored = lambda *arguments: validation.Validation({"a": next(means)}, {})  # noqa: E731
    monkeypatch.setattr(validation.Validator, "__call__", scored)
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", _stop_at(3))
        assert train("--set", "run.validation_steps=2").code == 1
    picture(tmp_path / "photos" / "00.png", 256, 256, seed=9)
    done = train("--resume", "--set", "run.validation_steps=2")
    assert done.code == 0
    assert "warning: the photos changed since the checkpoint: source gaussian has 5 photos, not 4" in done.err
    assert "best.safetensors" not in names(tmp_path / "run")


def _stop_at(step, error="expected scalar type Float"):
    advance = Stepper.__call__

    def failing(stepper, *batch):
        if stepper.step == step:
            raise RuntimeError(error)
        return advance(stepper, *batch)

    return failing


def test_a_lack_of_memory_is_one_line_with_what_to_do_and_the_run_can_go_on(train, monkeypatch):
    message = "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", _stop_at(0, message))
        done = train("-q")
    assert (done.code, done.err.count("kbnet: error: ")) == (1, 1)
    assert "not enough memory for this training run; use a larger phases.N.accumulate, a smaller batch" in done.err
    assert "bug" not in done.err
    assert train("-q", "--resume", "--set", "phases.0.accumulate=2").code == 0


def test_a_checkpoint_of_another_program_is_one_line(train, tmp_path):
    checkpoint.save(tmp_path / "run", {"step": 3, "state_dict": {}})
    done = train("--resume")
    assert (done.code, "was written by another version of kbnet or another program" in done.err) == (1, True)
    assert "bug" not in done.err


def test_resume_needs_a_checkpoint(train):
    done = train("--resume")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "start without --resume" in done.err


def test_a_recipe_that_contradicts_itself_is_one_line(train):
    done = train("--set", "optimizer.warmup_steps=9")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "must not exceed the 4 steps" in done.err


def test_data_is_given_as_often_as_there_are_folders(train, tmp_path):
    picture(tmp_path / "more" / "9.png", 20, 20)
    done = train("--data", tmp_path / "more", "--set", "run.validation_every=9")
    assert done.code == 0
    assert done.err.startswith(f"reading {tmp_path / 'photos'}, {tmp_path / 'more'}\n")


@pytest.mark.slow
def test_photos_that_do_not_fit_are_mapped_from_the_cache(train, tmp_path):
    done = train("--memory", 0.0001, "--cache", tmp_path / "decoded")
    assert done.code == 0
    assert f"of photos are mapped from {tmp_path / 'decoded'}" in " ".join(done.err.split())
    assert len(list((tmp_path / "decoded").glob("*.npy"))) == 4


@pytest.mark.slow
def test_the_weights_that_validated_best_are_written_where_they_are_not_the_last(train, tmp_path):
    # with so high a rate the last is not the best
    done = train("--set", "run.validation_steps=1", "--set", "optimizer.lr=0.5", "--set", "run.ema=0")
    best = tmp_path / "run" / "best.safetensors"
    assert done.code == 0
    assert done.err.splitlines()[-1].startswith("best weights in validation, step ")
    assert load_model(best).config.width == 8
    assert best.read_bytes() != (tmp_path / "run" / "model.safetensors").read_bytes()


def test_a_diverged_run_is_one_line(train, tmp_path):
    done = train("-q", "--set", "optimizer.lr=1e30", "--set", "optimizer.clip_norm=1e30")
    assert (done.code, done.err.count("kbnet: error: ")) == (1, 1)
    assert done.err.splitlines()[-1].startswith("kbnet: error: the ")
    assert f"The batch is in {tmp_path / 'run' / 'diverged.safetensors'}" in done.err
    assert (tmp_path / "run" / "diverged.safetensors").exists()
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_in_which_another_process_trains_is_left_to_it(train, tmp_path):
    with checkpoint.sole_writer(tmp_path / "run"):
        done = train("-q")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"another process (pid {os.getpid()}) is training in {tmp_path / 'run'}" in done.err
    assert list((tmp_path / "run").iterdir()) == []
    assert train("-q").code == 0  # it is free again


def test_weights_of_another_network_are_no_start(train, tiny):
    done = train("-q", "--set", f"model.init={tiny}", "--set", "model.settings.width=16")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "width is 8, not 16" in done.err


@pytest.mark.slow
def test_curves_and_pictures_are_drawn(train, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train().code == 0
    drawn = EventAccumulator(str(tmp_path / "run" / "curves"))
    drawn.Reload()
    tags = drawn.Tags()
    assert {"loss", "lr", "loader share", "psnr/sigma 15"} <= {*tags["scalars"]}
    assert any(tag.startswith("degraded, restored, clean/sigma 15/") for tag in tags["images"])
    (image,) = drawn.Images("degraded, restored, clean/sigma 50/0")
    assert (image.width, image.height) == (3 * 256, 256)
