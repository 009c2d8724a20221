"""The script that trains on a GPU for so many minutes, tried out on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kbnet
from kbnet.imaging import Photo, write_photo
from kbnet.training import Recipe

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_training.py"

RECIPE = """
[model]
preset = "kbnet-nano"
settings = {width = 4, encoder_blocks = [1], middle_blocks = 0, decoder_blocks = [1], bases = 2}
[degradation]
kind = "gaussian"
sigma = [0, 55]
[[phases]]
steps = 30
patch = 8
batch = 3
[[phases]]
steps = 10
patch = 16
batch = 2
[optimizer]
kind = "muon"
lr = 0.01
warmup_steps = 2
hold_steps = 20
schedule = "linear"
clip_norm = 1.0
[run]
validation_every = 5
"""


@pytest.fixture
def work(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        slope = np.arange(40)[:, None, None] * 3 + np.zeros((40, 40, 3))
        photo = np.clip(slope + rng.integers(0, 100, 3), 0, 255).astype(np.uint8)
        write_photo(Photo(photo), tmp_path / "photos" / f"{i}.png")
    return tmp_path


def call(work, *options):
    package = str(Path(kbnet.__file__).parents[1])
    command = ["--recipe", work / "recipe.toml", "--data", work / "photos", "--run", work / "out", *options]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package},
    )


@pytest.mark.slow
def test_it_plans_trains_evaluates_and_continues_what_was_cut_off(work):
    # A budget of so many steps that none of them is cut off by a machine that is quick.
    options = ["--minutes", "0.05", "--device", "cpu", "--workers", "0", "--limit", "1"]
    first = call(work, *options, "--stop-after", "0")
    assert first.returncode == 3, first.stderr
    plan = json.loads((work / "out" / "plan.json").read_text())
    phases = plan["recipe"]["phases"]
    steps = sum(phase["steps"] for phase in phases)
    results = json.loads((work / "out" / "gpu-training.json").read_text())
    assert (results["steps"], results["complete"]) == (1, steps == 1)
    assert f"stopped after step 1 of {steps}" in first.stdout

    again = call(work, *options, "--evaluate", f"gaussian={work / 'photos'}", "--against", "denoise-gaussian")
    assert (again.returncode, again.stderr) == (0, ""), again.stderr
    results = json.loads((work / "out" / "gpu-training.json").read_text())
    assert results["complete"]
    assert results["steps"] == steps
    assert results["cuda_graphs"] == 0  # on a CPU
    assert results["device"] == "cpu"
    assert [cost.keys() for cost in results["seconds_per_step"]] == [{"seconds"}] * 2
    assert {"photos sigma 25", "photos sigma 25, input"} <= results["figures"]["new"].keys()
    assert results["figures"]["new"].keys() == results["figures"]["denoise-gaussian"].keys()
    assert results["figures"]["denoise-gaussian"]["photos sigma 25"] > results["figures"]["new"]["photos sigma 25"]
    lines = [json.loads(line) for line in (work / "out" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == steps
    assert kbnet.load_model(work / "out" / "model.safetensors").config.width == 4
    assert str(work) not in (work / "out" / "gpu-training.json").read_text()

    other = call(work, *options[2:], "--minutes", "7")
    assert other.returncode == 1
    assert "contains a run with another recipe, settings or time; use another --run" in other.stderr


def test_without_a_gpu_it_says_so(work):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    child = call(work)
    assert child.returncode == 1
    assert child.stderr == "expected a CUDA device, but PyTorch found none; to try the script out, use --device cpu\n"
    assert not (work / "out").exists()


def test_a_scaled_recipe_keeps_the_shares_of_its_phases_and_the_shape_of_its_schedule(work, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_training

    recipe = Recipe.read(work / "recipe.toml")
    plan = gpu_training.scaled(recipe, [0.1, 0.2], 50.0)  # ten times what the recipe takes
    assert [phase.steps for phase in plan.phases] == [300, 100]
    assert [phase.patch for phase in plan.phases] == [8, 16]
    assert (plan.optimizer.warmup_steps, plan.optimizer.hold_steps) == (20, 200)
    assert plan.optimizer.lr == recipe.optimizer.lr
    tiny = gpu_training.scaled(recipe, [100.0, 100.0], 1.0)
    assert [phase.steps for phase in tiny.phases] == [1, 1]

    cycles = {"schedule": "cycles", "hold_steps": 0, "cycles": [{"steps": 20}, {"steps": 18, "lr": 1e-3}]}
    plan = gpu_training.scaled(gpu_training.changed(recipe, optimizer=cycles), [0.1, 0.2], 25.0)
    assert [cycle.steps for cycle in plan.optimizer.cycles] == [100, 90]
    assert plan.optimizer.warmup_steps + 190 == plan.steps == 200


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_scaled(recipe, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_training

    plan = Recipe.read(recipe)
    scaled = gpu_training.scaled(plan, [0.03] * len(plan.phases), 720.0)
    assert abs(scaled.steps - 24000) <= len(plan.phases)
    assert Recipe.model_validate_json(scaled.model_dump_json()) == scaled
