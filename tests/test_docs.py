"""What the documentation shows runs: docstring examples, and the README's commands and code."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# the rooms that need an extra to be imported at all
HAS_EXPORT = importlib.util.find_spec("onnx") is not None
LEFT_OUT = tuple(
    room
    for room, package in {"kbnet.export": "onnx", "kbnet.server": "fastapi"}.items()
    if importlib.util.find_spec(package) is None
)
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(kbnet.__path__, "kbnet.")
    if not module.name.endswith(("__main__", "_native")) and not module.name.startswith(LEFT_OUT)
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch, "np": np}, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_some_docstrings_have_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = sum(len(t.examples) for name in MODULES for t in finder.find(importlib.import_module(name)))
    assert examples > 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the README's commands name."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    noisy = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    write_photo(Photo(noisy), tmp_path / "noisy.png")
    (tmp_path / "holiday").mkdir()
    for name in ("a.jpg", "b.png"):
        write_photo(Photo(noisy), tmp_path / "holiday" / name)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_readme_python_runs(folder: Path) -> None:
    found = blocks("python")
    assert found
    for code in found:
        exec(compile(code, "README.md", "exec"), {})


def test_readme_commands_run(folder: Path) -> None:
    commands = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ kbnet ")]
    assert len(commands) >= 5
    for line in commands:
        if "kbnet train" in line or "kbnet serve" in line:
            continue  # hours, or until it is stopped; tests/training and tests/server run them
        if "kbnet export" in line and not HAS_EXPORT:
            continue
        command = line.removeprefix("$ ").partition("  #")[0]
        if "|" in command or "<" in command:
            subprocess.run(command.replace("kbnet", f"{sys.executable} -m kbnet"), shell=True, check=True)
        else:
            arguments = shlex.split(command)[1:]
            done = subprocess.run([sys.executable, "-m", "kbnet", *arguments], capture_output=True)
            assert done.returncode == 0, (line, done.stderr.decode())
    assert read_photo(folder / "clean.png").pixels.shape == (40, 56, 3)


def test_readme_names_only_files_that_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []
