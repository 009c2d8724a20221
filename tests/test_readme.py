"""The README keeps its promises: its two commands, its code, its figures, its licences and its links."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ["make demo", "make test"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    noisy = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for name in ("rainy.jpg", "holiday/a.jpg", "holiday/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_photo(Photo(noisy), tmp_path / name)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.removeprefix("$ ").partition("  #")[0].strip() for line in block.splitlines()]


def test_the_first_commands_are_two_and_nothing_comes_before_them() -> None:
    assert commands(blocks("console")[0]) == COMMANDS
    before = README.partition("```console")[0]
    assert "`git clone --depth 1`" in before
    assert "pip" not in before


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_each_of_them_prepares_its_environment_first(command: str) -> None:
    done = subprocess.run(
        [*command.split(), "--no-print-directory", "--dry-run", "PYTHON="], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("tools/environment ")
    # the demo needs the package alone
    assert ('""' in first.partition(" ")[2].split()[0]) == (command == "make demo")


def test_the_pull_request_checks_run_them_as_they_stand() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    ran = [line.partition("#")[0].strip() for line in lines]
    assert "make demo" in ran
    assert "make test-all" in ran
    assert "PYTHON" in next(line for line in ran if line.startswith("unset"))


def test_the_demo_restores_the_photograph_of_the_repository(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(r"([\d.]+) dB before, ([\d.]+) dB after", done.stdout)
    assert found is not None, done.stdout
    assert float(found[2]) > float(found[1]) + 5
    named = [Path(line.partition(": ")[2].strip()) for line in done.stdout.splitlines()[2:]]
    assert named == [tmp_path / "demo" / "restored.jpg", tmp_path / "demo" / "before-after.jpg"]
    noisy, wide = read_photo(ROOT / "examples" / "noisy.jpg"), read_photo(named[1])
    assert wide.width == 2 * noisy.width + 6


def test_the_python_runs(folder: Path) -> None:
    found = blocks("python")
    assert found
    for code in found:
        assert len(code.splitlines()) <= 6
        exec(compile(code, "README.md", "exec"), {})
    assert read_photo("restored.png").pixels.shape == read_photo("examples/noisy.jpg").pixels.shape


@pytest.mark.slow
def test_the_commands_run(folder: Path) -> None:
    found = [line for block in blocks("console") for line in commands(block) if line.startswith("kbnet ")]
    assert len(found) >= 5
    for line in found:
        if line.startswith(("kbnet train", "kbnet serve")):
            continue  # hours, or until it is stopped; tests/training and tests/server run them
        done = subprocess.run([sys.executable, "-m", "kbnet", *shlex.split(line)[1:]], capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
    assert read_photo(folder / "restored.jpg").pixels.shape == (300, 451, 3)
    assert (folder / "restored" / "b.png").exists()


def test_every_task_of_the_table_ships() -> None:
    tasks = re.findall(r"^\| .* \| `--task ([\w-]+)`", README, re.MULTILINE)
    assert tasks[0] == "denoise"
    assert set(tasks) == {entry.task for entry in kbnet.list_models() if entry.default}


def test_the_first_screen_names_the_licences_of_the_code_and_of_every_weights_file() -> None:
    line = next(line for line in README.splitlines()[:15] if line.startswith("Code: "))
    assert "Code: MIT." in line
    assert set(re.findall(r"CC BY[\w. -]*\d\.\d", line)) == {
        entry.license for entry in kbnet.list_models() if entry.file
    }


def test_every_figure_is_one_of_the_results() -> None:
    table = README.partition("## Quality and speed")[2].partition("## Python")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert 1 <= len(rows) <= 8
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    figures = [figure for row in rows for figure in re.findall(r"\d\d\.\d\d", row)]
    assert len(figures) >= 2 * len(rows)
    assert [figure for figure in figures if figure not in results] == []


def test_it_is_short_and_leads_only_to_what_exists() -> None:
    assert len(README.splitlines()) < 150
    assert README.count("![") == 1
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []
