"""What a resumed run takes from its checkpoint, what from its recipe and folders, and which checkpoints it refuses."""

import json
import shutil

import pytest
import torch
from small_runs import assert_same_state, make_photos, recipe, state, train

from kbnet.errors import InvalidInputError, TrainingError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.failures import lacks_memory
from kbnet.training import Run, checkpoint, validation


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Five tiny photos, one of them held out; validation on crops as tiny."""
    monkeypatch.setattr(validation, "CROP", 16)
    return make_photos(tmp_path / "photos")


@pytest.fixture
def interrupted(data, tmp_path):
    """The folder of a run with a checkpoint after step 2."""
    train(tmp_path / "run", data, recipe(), stop_at=3)
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_settings_of_the_optimizer_are_those_of_the_changed_recipe(kind, data, tmp_path):
    plan = {"kind": kind, "lr": 1e-2, "warmup_steps": 2, "clip_norm": 1.0}
    train(tmp_path / "run", data, recipe(optimizer=plan), stop_at=3)
    changed = recipe(optimizer=plan | {"weight_decay": 0.25, "betas": [0.5, 0.75]})
    groups = Run(changed, data, tmp_path / "run", workers=0).stepper.optimizer.param_groups
    found = [(group["weight_decay"], group.get("betas")) for group in groups]
    betas = (0.5, 0.75)
    assert found == ([(0.25, None), (0.25, betas), (0.0, betas)] if kind == "muon" else [(0.25, betas)])


def test_a_run_that_ended_before_its_first_regular_checkpoint_resumes(data, tmp_path):
    whole, expected = train(tmp_path / "whole", data, recipe())
    train(tmp_path / "run", data, recipe(), stop_at=1)
    assert checkpoint.load(tmp_path / "run")["step"] == 0
    resumed, reports = train(tmp_path / "run", data, recipe())
    assert reports == expected
    assert_same_state(state(resumed), state(whole))


def told(caplog):
    return [r.getMessage() for r in caplog.records if "photos changed" in r.getMessage()]


def test_photos_that_did_not_change_are_not_told_of_even_if_they_moved(interrupted, data, tmp_path, caplog):
    shutil.copytree(data, tmp_path / "moved")
    for folder in (data, tmp_path / "moved"):
        assert Run(recipe(), folder, interrupted, workers=0).best[0] == 2
    assert told(caplog) == []


def test_an_added_photo_is_told_of_and_the_best_validation_starts_anew(interrupted, data, caplog):
    shutil.copy(data / "4.png", data / "00.png")  # held out, because it is the first now
    run = Run(recipe(), data, interrupted, workers=0)
    assert told(caplog) == [
        "the photos changed since the checkpoint: source gaussian has 6 photos, not 5; the best validation starts "
        "anew, and photos that were trained on may be held out now"
    ]
    assert run.best is None
    run.train()
    assert run.best[0] > 2
    assert checkpoint.load(interrupted, checkpoint.BEST)["step"] == run.best[0]
    caplog.clear()
    Run(recipe(), data, interrupted, workers=0)
    assert told(caplog) == []  # they are the checkpoint's now


def test_a_replaced_photo_and_another_split_are_told_of(interrupted, data, caplog):
    assert Run(recipe(run={"validation_every": 4}), data, interrupted, workers=0).best is None
    write_photo(Photo(read_photo(data / "3.png").pixels[:20]), data / "3.png", overwrite=True)
    assert Run(recipe(), data, interrupted, workers=0).best is None
    (data / "4.png").rename(data / "5.png")
    assert Run(recipe(), data, interrupted, workers=0).best is None
    assert [line.partition(";")[0].partition(": ")[2] for line in told(caplog)] == [
        "source gaussian holds out other photos",
        "source gaussian has other photos",
        "source gaussian has other photos",
    ]


@pytest.mark.parametrize("kept", [None, "odd", [3]])
def test_a_checkpoint_without_fingerprints_resumes(kept, interrupted, data, caplog):
    old = checkpoint.load(interrupted)
    del old["photos"]
    checkpoint.save(interrupted, old if kept is None else old | {"photos": kept})
    assert Run(recipe(), data, interrupted, workers=0).step == 2
    assert len(told(caplog)) == (kept == [3])


def foreign(change, folder):
    checkpoint.save(folder, change(checkpoint.load(folder)))


def with_recipe(kept, **changed):
    return kept | {"recipe": json.dumps(json.loads(kept["recipe"]) | changed)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda kept: {"step": 3}, "it has no recipe"),
        (lambda kept: {"step": 3, "recipe": kept["recipe"], "state_dict": {}}, "it has no model"),
        (lambda kept: kept | {"ema": [1]}, "it has no ema"),
        (lambda kept: kept | {"optimizer": None}, "it has no optimizer"),
        (lambda kept: kept | {"recipe": "{"}, r"recipe: "),
        (lambda kept: with_recipe(kept, later={}, phases=[]), r"later is not a recipe field"),
        (lambda kept: kept | {"model": {"first.weight": torch.zeros(3)}}, "RuntimeError: Error"),
        (lambda kept: kept | {"ema": {}}, "RuntimeError: Error"),
        (lambda kept: kept | {"optimizer": {"state": {}, "param_groups": []}}, "ValueError: "),
        (lambda kept: kept | {"optimizer": {"state": {}}}, "Error: "),
        (lambda kept: kept | {"best": 3}, "TypeError: "),
        (lambda kept: kept | {"interval": [3]}, "TypeError: "),
    ],
)
def test_a_checkpoint_of_another_program_or_version_is_refused_in_one_line(change, says, interrupted, data):
    foreign(change, interrupted)
    with pytest.raises(TrainingError, match=rf"checkpoint\.pt was written by another .*{says}.*model\.init") as caught:
        Run(recipe(), data, interrupted, workers=0)
    assert str(caught.value).isprintable()


def test_a_lack_of_memory_while_loading_is_not_blamed_on_the_checkpoint(interrupted, data, monkeypatch):
    def full(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", full)
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        Run(recipe(), data, interrupted, workers=0)
    assert not isinstance(caught.value, TrainingError)


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), True),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), False),
        (RuntimeError("expected scalar type Float"), False),
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_messages(error, lacks):
    assert lacks_memory(error) == lacks


def test_the_highest_seed_gives_batches(data, tmp_path):
    run = Run(recipe(run={"seed": 2**32 - 1}), data, tmp_path / "run", workers=0)
    assert run.patches.batch(10**6, 1, 8)[0].isfinite().all()


def test_a_single_photo_is_held_out_and_so_too_few(tmp_path):
    make_photos(tmp_path / "photos", count=1)
    with pytest.raises(
        InvalidInputError, match=r"at least two photos for gaussian in .*, found one, which is held out"
    ):
        Run(recipe(), tmp_path / "photos", tmp_path / "run")


def test_a_single_scene_or_pair_is_too_few(tmp_path):
    for name in ("0001_007_S6", "0002_007_GP"):
        make_photos(tmp_path / "sidd" / "Data" / name, count=2)
        for number, kind in enumerate(("NOISY", "GT")):
            path = tmp_path / "sidd" / "Data" / name / f"{number}.png"
            path.rename(path.with_name(f"{kind}_SRGB_010.PNG"))
    make_photos(tmp_path / "pairs" / "input", count=1)
    make_photos(tmp_path / "pairs" / "target", count=1)
    for layout, what in {"sidd": "scene", "pairs": "pair"}.items():
        plan = recipe(degradation=None, sources=[{"layout": layout}])
        with pytest.raises(InvalidInputError, match=f"at least two {what}s for {layout}.*; add another {what}"):
            Run(plan, tmp_path / layout, tmp_path / "run")
