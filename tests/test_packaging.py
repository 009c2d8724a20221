"""What users install: the archives' content, the same bytes from the same commit, extras that keep promises."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbnet.imaging import Photo, read_photo, write_photo

ROOT = Path(__file__).parents[1]
CHECK = runpy.run_path(str(ROOT / ".ci" / "check_dist.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The build backend called as pip calls it, without compiling: .ci/dist compiles, which takes minutes.
BUILD = """
import sys
sys.path.insert(0, "tools")
from build_backend import build_sdist, build_wheel
build_sdist(sys.argv[1])
build_wheel(sys.argv[1], {"wheel.cmake": "false"})
"""


@dataclass
class Built:
    sdist: Path
    wheel: Path
    files: set[str]


def build(folder: Path, files: set[str]) -> Built:
    """Archives of a copy of the commit's files in `folder`."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "src/kbnet/engine/_native.stray.so").write_bytes(b"left by an earlier build in place")
    dist = folder / "dist"
    dist.mkdir()
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    command = [sys.executable, "-c", BUILD, str(dist)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return Built(sdist, wheel, files)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    pytest.importorskip("scikit_build_core")
    if not (ROOT / ".git").exists():
        pytest.skip("which files belong to the commit is only known in a repository")
    # a file that was deleted and not yet committed is no part of what is tested
    files = {name for name in CHECK["tracked"](ROOT) if (ROOT / name).exists()}
    return build(tmp_path_factory.mktemp("one"), files)


@pytest.mark.slow
def test_the_archives_hold_the_commits_files_and_nothing_else(built: Built) -> None:
    assert list(CHECK["problems"](built.sdist, built.wheel, files=built.files, pure=True)) == []


@pytest.mark.slow
def test_a_wheel_without_its_kernels_or_with_stray_files_is_refused(built: Built) -> None:
    missing = list(CHECK["problems"](built.sdist, built.wheel, files=built.files | {"lost.txt"}, pure=False))
    assert len(missing) == 2
    assert "lost.txt is missing" in missing[0]
    assert "expected one compiled module, got []" in missing[1]
    stray = list(CHECK["problems"](built.sdist, built.wheel, files=built.files - {"README.md"}, pure=True))
    assert len(stray) == 1
    assert "README.md is not a file of the commit" in stray[0]


@pytest.mark.slow
def test_the_same_commit_gives_the_same_bytes(built: Built, tmp_path: Path) -> None:
    again = build(tmp_path / "another-place", built.files)
    assert again.sdist.read_bytes() == built.sdist.read_bytes()
    assert again.wheel.read_bytes() == built.wheel.read_bytes()


@pytest.mark.slow
def test_the_wheel_restores_a_picture_away_from_the_source(built: Built, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(built.wheel)], check=True)
    noisy = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    write_photo(Photo(noisy), tmp_path / "noisy.png")
    done = subprocess.run(
        [sys.executable, "-m", "kbnet", "restore", "noisy.png", "-o", "clean.png"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_photo(tmp_path / "clean.png").pixels.shape == noisy.shape


EXTRAS = {
    name: [Requirement(line) for line in lines]
    for name, lines in ({"": PROJECT["dependencies"]} | PROJECT["optional-dependencies"]).items()
}
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def test_every_requirement_of_the_tests_is_pinned_to_a_version_that_it_allows() -> None:
    (own,) = (one for one in EXTRAS["dev"] if one.name == "kbnet")
    assert own.extras <= EXTRAS.keys()
    for extra in ("", "dev", *own.extras):
        for one in EXTRAS[extra]:
            if one.name != "kbnet":  # one extra may ask for another
                pin = PINS[canonicalize_name(one.name)]
                assert one.specifier.contains(pin), (extra, str(one), pin)


def test_errors_name_an_extra_that_holds_the_missing_package() -> None:
    promises = [
        tuple(argument.value if isinstance(argument, ast.Constant) else None for argument in call.args)
        for path in (ROOT / "src").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "MissingExtraError"
    ]
    assert promises
    for package, extra in promises:
        assert extra in EXTRAS
        # None where the package is the one that the import error names
        assert package is None or canonicalize_name(package) in {canonicalize_name(r.name) for r in EXTRAS[extra]}
