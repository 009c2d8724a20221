"""Every shipped set of weights is what its catalogue entry says."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kbnet
from kbnet.degradations import create_degradation
from kbnet.errors import CheckpointError, InvalidInputError, UnknownModelError
from kbnet.evaluation import measured_figures
from kbnet.metrics import psnr
from kbnet.models import PRESETS, TASKS, catalogue, cost, count_parameters, find, list_models, load_model, resolve
from kbnet.models import catalogue as _catalogue_function
from kbnet.models.catalogue import FORMER_NAMES

ROOT = Path(__file__).parents[2]
ENTRIES = list(catalogue().values())


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, id=e.name, marks=[] if e.default else [pytest.mark.slow]) for e in ENTRIES],
)
def test_entry_is_true(entry: kbnet.models.CatalogueEntry) -> None:
    content = entry.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert len(content) < 10e6
    network = load_model(entry.name)
    assert network.config == PRESETS[entry.preset]
    assert count_parameters(network) == entry.parameters
    assert not network.training
    assert entry.task in TASKS
    assert entry.context in ("global", "local")
    assert (ROOT / entry.recipe).is_file()
    assert "Licen" in entry.training_data or "licen" in entry.training_data
    assert len(entry.license) > 3
    if "NC" not in entry.license:  # free weights name every photo that they were trained on
        assert entry.credits_path is not None
        rows = [line.split("\t") for line in entry.credits_path.read_text(encoding="utf-8").splitlines()]
        assert rows[0] == ["file", "licence", "credit", "source"]
        assert len(rows) > 600
        assert all(len(row) == 4 and row[1] and "NC" not in row[1].split("-") for row in rows[1:])
    assert entry.metrics["CBSD68 clean, lowest"] >= (38 if entry.task == "deblur" else 42)  # it does no harm
    planes = 4 if entry.variant == "raw" else 1  # a sensor's planes have a quarter of the pixels
    assert cost(network.config).per_pixel / planes <= (250_000 if entry.variant == "hq" else 60_000)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_metrics_are_those_of_a_results_file_of_these_weights(entry: kbnet.models.CatalogueEntry) -> None:
    results = [json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    measured = {
        f"{result['set']} {sigma}": value
        for result in results
        if result.get("sha256") == entry.sha256 and result.get("restorer", {}).get("context") == entry.context
        for sigma, value in result["psnr"].items()
    }
    raw = json.loads((ROOT / "benchmarks" / "results" / "raw.json").read_text())
    if raw.get("sha256") == entry.sha256:
        measured |= {f"CBSD68 raw ISO {row['iso']}": row["psnr"]["kbnet"] for row in raw["rows"]}
        measured["CBSD68 clean, lowest"] = raw["clean"]["told"]["lowest"]
    for result in results:
        settings = result.get("settings", {})
        ours = settings.get("sha256") == entry.sha256 and settings["context"] == entry.context
        # the whole set, as the catalogue's readers will take it
        if ours and result["limit"] is None and settings["strength"] == 1 and not settings["ensemble"]:
            measured |= measured_figures(result)
    assert entry.metrics
    for name, value in entry.metrics.items():
        assert value == pytest.approx(measured[name], abs=0.005), name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_what_bfloat16_changes_was_measured_with_these_weights(entry: kbnet.models.CatalogueEntry) -> None:
    row = json.loads((ROOT / "benchmarks" / "results" / "forms.json").read_text())["rows"][entry.name]
    assert row["sha256"] == entry.sha256
    assert row["images"] == 68
    assert entry.bfloat16 == {"loss": row["loss"], "change": row["change"]}


def test_bfloat16_is_automatic_only_where_it_changes_next_to_nothing() -> None:
    entry = replace(ENTRIES[0], bfloat16={"loss": 0.009, "change": 2.0})
    assert entry.fast_dtype == "bfloat16"
    for worse in ({"loss": 0.01, "change": 0.1}, {"loss": 0.001, "change": 2.01}, {}):
        assert replace(entry, bfloat16=worse).fast_dtype == "float32"


def test_some_weights_ship_and_each_task_has_one_default_at_most() -> None:
    assert find("denoise") is not None
    for task in TASKS:
        assert sum(entry.default for entry in list_models(task)) <= 1
    with pytest.raises(UnknownModelError, match="expected a task"):
        list_models("denois")


def test_a_model_is_found_by_name_task_and_path() -> None:
    entry = find("denoise")
    assert entry is not None
    assert resolve("denoise") == resolve(entry.name) == resolve(entry.path) == entry.path
    better = find("denoise-gaussian-hq")
    assert better is not None
    assert better is find(better.name) is find("denoise-gaussian", "best")
    assert (better.alias, better.task, better.default) == ("denoise-gaussian-hq", "denoise-gaussian", False)


def test_the_best_preset_falls_back_to_the_only_weights_and_a_wrong_one_is_refused() -> None:
    only = [task for task in TASKS if not any(entry.variant == "hq" for entry in list_models(task))]
    assert all(find(task, "best") is find(task) is not None for task in only)
    assert find("kbnet-nano-denoise", "best") is find("kbnet-nano-denoise")
    with pytest.raises(InvalidInputError, match="expected a preset, fast or best; got 'good'"):
        find("denoise", "good")


def test_former_names_work_and_say_what_they_are_called_now(caplog: pytest.LogCaptureFixture) -> None:
    module = sys.modules[_catalogue_function.__module__]
    module._current.cache_clear()
    for former, now in FORMER_NAMES.items():
        assert former not in catalogue()
        assert find(former) is find(now) is not None
        assert resolve(former) == resolve(now)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{former} is now called {now}" for former, now in FORMER_NAMES.items()]


def test_gray_images_go_to_gray_weights_when_a_task_is_named() -> None:
    for name, gray in {
        "denoise": True,
        "denoise-gaussian": True,
        "denoise-real": True,
        "kbnet-nano-denoise": False,
    }.items():
        restorer = kbnet.Restorer.from_pretrained(name)
        assert (restorer.suited(1).network.config.channels == 1) is gray, name
        assert restorer.task.startswith("denoise")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no-such-model", "expected an included model"),
        ("kbnet-s-gaussian-color", "includes no weights for the network"),
        ("/nowhere/at/all.pth", "expected an included model"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(name: str, says: str) -> None:
    with pytest.raises(UnknownModelError, match=says) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_damaged_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find("denoise")
    assert entry is not None
    content = bytearray(entry.path.read_bytes())
    content[-1] ^= 1
    (tmp_path / entry.file).write_bytes(content)
    module = __import__(_catalogue_function.__module__, fromlist=["_weights_folder"])
    monkeypatch.setattr(module, "_weights_folder", lambda: tmp_path)
    with pytest.raises(CheckpointError, match="differs from the included file"):
        load_model(entry.name)


def test_the_shipped_denoiser_denoises() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.2, 0.8, 96).expand(1, 3, 96, 96)
    noisy = ramp + 25 / 255 * torch.randn(1, 3, 96, 96)
    restored = kbnet.Restorer.from_pretrained("denoise-gaussian")(noisy)
    assert (restored - ramp).square().mean() < (noisy - ramp).square().mean() / 20


def test_the_default_removes_a_cameras_noise_from_gray_photos() -> None:
    y, x = np.mgrid[:96, :128].astype(np.float32)
    clean = (0.45 + 0.25 * np.sin(x / 17) * np.cos(y / 11) + 0.2 * (np.hypot(x - 70, y - 40) < 25)).astype(np.float32)
    camera = create_degradation("camera-noise", shot=[0.02, 0.02], clean_share=0)
    noisy = camera(torch.from_numpy(clean[None]), torch.Generator().manual_seed(0))[0].numpy()
    result = kbnet.restore(noisy)
    assert psnr(result, clean, peak=1.0) > psnr(noisy, clean, peak=1.0) + 6
