"""Photos, recipes and runs small enough for a test, and states to compare."""

import json

import numpy as np
import torch

from kbnet.imaging import Photo, write_photo
from kbnet.training import Recipe, Run
from kbnet.training.curves import NAME

SETTINGS = {"width": 4, "encoder_blocks": [1], "middle_blocks": 0, "decoder_blocks": [1], "bases": 2}


def make_photos(folder, count=5, height=24, width=20):
    """Photos of smooth slopes, of one colour each."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        smooth = rng.integers(0, 256, (1, 1, 3)) + np.arange(height)[:, None, None] * 2
        photo = np.clip(smooth + np.zeros((height, width, 3)), 0, 255).astype(np.uint8)
        write_photo(Photo(photo), folder / f"{i}.png")
    return folder


def table(**sections):
    """Six steps of two phases, with a checkpoint after every second step; `sections` are merged in, lists replaced."""
    plain = {
        "model": {"preset": "kbnet-nano", "settings": SETTINGS},
        "degradation": {"kind": "gaussian", "sigma": [0, 55]},
        "phases": [{"steps": 3, "patch": 8, "batch": 3}, {"steps": 3, "patch": 16, "batch": 2}],
        "optimizer": {"lr": 1e-2, "warmup_steps": 2, "clip_norm": 1.0},
        "run": {"seed": 1, "ema": 0.9, "validation_every": 5, "validation_steps": 2, "log_steps": 1},
    }
    for name, section in sections.items():
        merged = isinstance(section, dict) and section.get("kind") is None
        plain[name] = plain.get(name, {}) | section if merged else section
    return {name: section for name, section in plain.items() if section is not None}


def recipe(**sections):
    """The same as a recipe."""
    return Recipe.model_validate(table(**sections))


def toml(values):
    """A recipe's table as TOML, which JSON's values nearly are."""
    lines = []
    for name, section in values.items():
        for one in section if isinstance(section, list) else [section]:
            lines += [f"[[{name}]]" if isinstance(section, list) else f"[{name}]"]
            lines += [f"{key} = {_inline(value)}" for key, value in one.items()]
    return "\n".join(lines)


def _inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


class PowerCut(Exception):
    """Ends a run between two steps, without a word to it."""


def train(folder, data, recipe, stop_at=None, **options):
    """Train, noting each step's report; `stop_at` cuts the run off after that step."""
    reports = []

    def report(progress):
        reports.append(progress)
        if progress.step == stop_at:
            raise PowerCut

    run = Run(recipe, data, folder, workers=options.pop("workers", 0), **options)
    try:
        run.train(report)
    except PowerCut:
        assert stop_at is not None
    return run, reports


def curve(folder):
    """What a run's log says of every step, without what depends on the machine's speed."""
    entries = map(json.loads, (folder / NAME).read_text().splitlines())
    timing = {"steps_per_second", "loader_share"}
    return [{key: value for key, value in entry.items() if key not in timing} for entry in entries]


def state(run):
    """Every number that a run's future depends on."""
    tensors = {f"model.{k}": v for k, v in run.accelerator.unwrap_model(run.stepper.model).state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in run.stepper.ema.state_dict().items()}
    optimizer = run.stepper.optimizer.state_dict()
    for name, part in ({"adamw": optimizer} if "state" in optimizer else optimizer).items():
        for index, values in part["state"].items():
            tensors |= {f"{name}.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
    return {key: tensor.clone() for key, tensor in tensors.items()}


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
