"""docs/results.md is what its script makes of the results files, and the script leaves nothing out."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("results_page", ROOT / "benchmarks" / "results_page.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script):
    made = script.page(script.read(ROOT / "benchmarks" / "results"), script.published())
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == made, "run python benchmarks/results_page.py"


def test_every_results_file_is_named_with_its_command(script):
    made = script.page(script.read(ROOT / "benchmarks" / "results"), script.published())
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert f"`{path.name}`" in made
        assert json.loads(path.read_text())["facts"]["command"] in made


def settings(**more):
    usual = {"set": "Mine", "model": "nano", "context": "local", "ensemble": False, "dtype": "float32", "sha256": "ab"}
    return usual | {"strength": 1.0} | more


def mean(before, after, **more):
    lowest = {"photo": "x", "psnr": after - 1}
    return {
        "pictures": 3,
        "input": before and {"psnr": before},
        "output": {"psnr": after},
        "lowest": lowest,
        "worse": 1,
    }


def results(benchmark, means, **more):
    return {
        "facts": {"command": f"kbnet evaluate --benchmark {benchmark}"},
        "title": "a title of an earlier version",
        "settings": settings(benchmark=benchmark, **more),
        "limit": None,
        "means": means,
        "seconds_per_megapixel": 1.234,
    }


def test_each_kind_of_result_has_its_table(script):
    files = {
        "noise": results("gaussian", {"sigma 15": mean(24.6, 33.5), "sigma 25": mean(20.2, 31.0)}, set="CBSD68"),
        "rain": results("rain100l", {"all": mean(26.2, 34.12)}),
        "blur": results("blur", {"defocus": mean(24.0, 26.5), "all": mean(24.0, 23.0)}, strength=0.5),
        "clean": results("clean", {"clean": mean({}, 51.0)}),
        "peers": {
            "facts": {"command": "python benchmarks/peers.py"},
            "methods": {"bm3d": {"label": "BM3D"}},
            "summary": [{"set": "CBSD68", "sigma": 25.0, "method": "bm3d", "psnr": 30.7, "seconds": 70.0}],
        },
    }
    made = script.page(files, script.published())
    for row in (
        "| noisy | 24.60 | 20.20 | – |  |  |",
        "| `nano`, context local | 33.50 | 31.00 | – | 1.23 | `noise` |",
        "| BM3D | – | 30.70 | – | 70 | `peers` |",
        "| KBNet-S | 34.41 | 31.80 | – | – | published, quoted by others |",
        "| Mine (3) | Rain100L | Y | `nano`, context local | 26.20 | 34.12 | +7.92 | 33.12 | 1 | `rain` |",
        "| Mine, defocus (3) | synthetic blur | RGB | `nano`, context local, strength 0.5 | 24.00 | 26.50 | +2.50 "
        "| 25.50 | 1 | `blur` |",
        "| Mine (3) | `nano`, context local | 51.00 | 50.00 (x) | `clean` |",
        "| Rain100L, Y | Restormer | 39.10 | published |",
    ):
        assert row in made.splitlines(), row
    assert "## Not measured" in made


def test_no_published_figure_has_an_unknown_source(script):
    others = script.published()
    rows = [row for entry in (*others["gaussian"], *others["other"]) for row in entry["rows"]]
    assert len(rows) > 20
    assert {row["source"] for row in rows} == {*script.SOURCES}
