"""The build asks PyPI for a compiler where the system has none, and only there."""

import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core")
ROOT = Path(__file__).parents[1]
BACKEND = runpy.run_path(str(ROOT / "tools" / "build_backend.py"))
HOOKS = ("get_requires_for_build_wheel", "get_requires_for_build_editable")

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems bring a compiler, or are not built for")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """`system(*names)` is a system with these programs and no others."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CXX", raising=False)

    def build(*names):
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
            (tmp_path / name).chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(tmp_path))

    return build


@linux
@pytest.mark.parametrize("hook", HOOKS)
def test_without_a_compiler_the_build_requires_ziglang(system, hook):
    system("cc", "make")
    assert BACKEND["ZIG"] in BACKEND[hook]()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("compiler", BACKEND["COMPILERS"])
def test_a_compiler_of_the_system_is_used(system, hook, compiler):
    system(compiler)
    assert BACKEND["ZIG"] not in BACKEND[hook]()


def test_a_compiler_that_was_asked_for_is_used(system, monkeypatch):
    system()
    monkeypatch.setenv("CXX", "/opt/compiler/bin/c++")
    assert BACKEND["ZIG"] not in BACKEND["get_requires_for_build_wheel"]()


def test_a_source_archive_needs_no_compiler(system):
    system()
    assert BACKEND["ZIG"] not in BACKEND["get_requires_for_build_sdist"]()


@linux
def test_zig_builds_for_every_processor_of_the_architecture(tmp_path):
    folder = tmp_path / "with a space"
    tools = BACKEND["write_tools"](folder)
    assert {path.name for path in tools.values()} == {"cc", "c++", "ar", "ranlib"}
    script = tools["c++"].read_text(encoding="utf-8")
    assert f" -target {BACKEND['target']()} " in script
    assert "native" not in script
    # The scripts pass every argument on, to the interpreter that has ziglang.
    (tmp_path / "ziglang.py").write_text("import sys; print(sys.argv[1:])", encoding="utf-8")
    done = subprocess.run(
        [tools["ar"], "a b", "c"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['ar', 'a b', 'c']\n"
