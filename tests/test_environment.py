"""How `make` prepares its environment: what it installs, from where, and what it says where something is missing."""

import builtins
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = runpy.run_path(str(ROOT / "tools" / "environment.py"))
GLOBALS = TOOL["main"].__globals__


@pytest.fixture
def plain(monkeypatch):
    """A Linux machine with no setting of ours or its own about package indexes, and without uv."""
    for name in ("TORCH_INDEX", *TOOL["UV_SOURCES"]):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(GLOBALS, "pip_has_sources", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


def test_linux_takes_cpu_builds_of_torch_unless_told_otherwise(plain):
    options = TOOL["torch_options"]
    assert options(False, "dev") == ["--extra-index-url", TOOL["PYTORCH_CPU"]]
    assert options(True, "dev") == ["--torch-backend", "cpu"]
    assert options(False, "") == options(True, "serve") == []  # neither needs torch
    plain.setenv("TORCH_INDEX", "file:///mirror")
    assert options(False, "torch") == ["--extra-index-url", "file:///mirror"]
    assert options(True, "torch") == ["--index", "file:///mirror"]
    plain.setenv("TORCH_INDEX", "none")
    assert options(False, "dev") == options(True, "dev") == []


def test_sources_that_were_configured_decide(plain):
    options = TOOL["torch_options"]
    plain.setitem(GLOBALS, "pip_has_sources", lambda: True)
    assert options(False, "dev") == []
    plain.setenv("UV_FIND_LINKS", "/wheels")
    assert options(True, "dev") == []


def test_macos_has_no_cuda_builds_to_avoid(plain):
    plain.setattr(sys, "platform", "darwin")
    assert TOOL["torch_options"](False, "dev") == []


def test_pips_own_sources_are_found_in_its_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    assert not TOOL["pip_has_sources"]()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert TOOL["pip_has_sources"]()


def test_uv_installs_unless_only_pip_knows_the_sources(plain):
    uses_uv = TOOL["uses_uv"]
    plain.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert uses_uv()
    plain.setitem(GLOBALS, "pip_has_sources", lambda: True)
    assert not uses_uv()
    plain.setenv("UV_DEFAULT_INDEX", "file:///index")
    assert uses_uv()
    plain.setattr(shutil, "which", lambda name: None)
    assert not uses_uv()


def test_requirements_follow_extras_of_extras():
    core, dev = set(TOOL["requirements"]("")), set(TOOL["requirements"]("dev"))
    assert "numpy" in core
    assert not {"pytest", "torch"} & core
    assert "torch" in dev
    assert core | {"pytest", "zensical", "fastapi"} <= dev
    assert not {name for name in dev if name.startswith("kbnet")}
    assert TOOL["requirements"]("dev")["ray"].startswith("ray[data]>=")


def test_a_chosen_interpreter_that_lacks_packages_is_told_and_left_alone(monkeypatch, capsys):
    monkeypatch.setitem(GLOBALS, "lacking", lambda extra: ["pytest", "zensical"])
    assert TOOL["check"]("dev") == 1
    said = capsys.readouterr().err
    assert "lacks pytest, zensical." in said
    assert "pip install -c constraints.txt -e '.[dev]'" in said
    monkeypatch.setitem(GLOBALS, "lacking", lambda extra: [])
    assert TOOL["check"]("dev") == 0


def test_without_venv_the_package_that_brings_it_is_named(monkeypatch, capsys, tmp_path):
    known = builtins.__import__

    def without(name, *rest):
        if name == "ensurepip":
            raise ImportError(name)
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(GLOBALS, "VENV", tmp_path / ".venv")
    with pytest.raises(SystemExit):
        TOOL["make_venv"](False)
    monkeypatch.undo()
    assert f"sudo apt install python3.{sys.version_info.minor}-venv" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_tools_are_named_with_the_command_that_brings_them(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    TOOL["mention_missing_tools"]("dev")
    assert "xcode-select --install" in capsys.readouterr().err
    monkeypatch.setattr(sys, "platform", "linux")
    TOOL["mention_missing_tools"]("dev")
    said = capsys.readouterr().err
    assert "the package ziglang" in said
    assert "sudo apt install chromium" in said
    TOOL["mention_missing_tools"]("")
    assert "chromium" not in capsys.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    TOOL["mention_missing_tools"]("dev")
    assert f"python3.{sys.version_info.minor}-dev" in capsys.readouterr().err
    (tmp_path / "Python.h").touch()
    TOOL["mention_missing_tools"]("dev")
    assert capsys.readouterr().err == ""


def test_it_installs_once_and_again_when_the_package_is_described_anew(monkeypatch, tmp_path):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").touch()
    calls = []
    monkeypatch.setitem(GLOBALS, "VENV", venv)
    monkeypatch.setitem(GLOBALS, "install", calls.append)
    monkeypatch.setattr(sys, "argv", ["environment.py", "--extra", "dev"])
    assert TOOL["main"]() == TOOL["main"]() == 0
    assert calls == ["dev"]
    monkeypatch.setitem(GLOBALS, "fingerprint", lambda: "another")
    assert TOOL["main"]() == 0
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    assert TOOL["main"]() == 0
    assert calls == ["dev", "dev"]  # the extra came with the package


@pytest.mark.parametrize("broken", ["no interpreter", "an old one"])
def test_a_venv_that_cannot_be_used_is_named_and_not_installed_into(monkeypatch, capsys, tmp_path, broken):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    if broken == "an old one":
        script(venv / "bin", "python", "exit 1")
    monkeypatch.setitem(GLOBALS, "VENV", venv)
    monkeypatch.setitem(GLOBALS, "install", lambda extra: pytest.fail("installed"))
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    assert TOOL["main"]() == 1
    assert "Remove it" in capsys.readouterr().err


def test_an_extra_is_added_without_compiling_the_package_again(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setitem(GLOBALS, "VENV", tmp_path)
    monkeypatch.setitem(GLOBALS, "make_venv", lambda uv: None)
    monkeypatch.setitem(GLOBALS, "mention_missing_tools", lambda extra: None)
    monkeypatch.setitem(GLOBALS, "uses_uv", lambda: False)
    monkeypatch.setitem(GLOBALS, "torch_options", lambda uv, extra: [])

    def run(command, env):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    TOOL["install"]("serve")
    assert commands[0][-2:] == ["--editable", f"{ROOT}[serve]"]
    TOOL["mark"]("").write_text(TOOL["fingerprint"]())
    TOOL["install"]("serve")
    assert "--editable" not in commands[1]
    assert any(part.startswith("uvicorn>=") for part in commands[1])
    assert commands[1][commands[1].index("--constraint") + 1] == str(ROOT / "constraints.txt")


def test_an_installation_that_fails_is_not_recorded(monkeypatch, capsys, tmp_path):
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(shutil.which("false"))
    monkeypatch.setitem(GLOBALS, "VENV", venv)
    monkeypatch.setitem(GLOBALS, "uses_uv", lambda: False)
    monkeypatch.setitem(GLOBALS, "torch_options", lambda uv, extra: [])
    monkeypatch.setattr(sys, "argv", ["environment.py"])
    with pytest.raises(SystemExit):
        TOOL["main"]()
    assert "Installation failed. The command was:" in capsys.readouterr().err
    assert [path.name for path in venv.iterdir()] == ["bin"]


def script(folder, name, body):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_a_python_that_is_too_old_is_passed_over_or_named(tmp_path):
    (tmp_path / "bin").mkdir()
    script(tmp_path / "bin", "python3", "exit 1")
    (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname"))
    (tmp_path / "bin" / "cat").symlink_to(shutil.which("cat"))
    command = ["/bin/sh", str(ROOT / "tools" / "environment"), "dev"]
    environment = {"PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "kbnet needs Python 3.11 or newer, but none was found" in done.stderr
    assert "sudo apt install python3" in done.stderr
    script(tmp_path / "bin", "python3.12", 'if [ "$1" = -c ]; then exit 0; fi; echo "$@"')
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split()[1:] == ["--extra", "dev"]
    done = subprocess.run([*command, "python3"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "PYTHON=python3 is not" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_uses_an_active_environment_and_otherwise_its_own():
    def python_of(**environment):
        command = ["make", "--no-print-directory", "--dry-run", "test"]
        plain = {
            k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHON", "CONDA_DEFAULT_ENV", "MAKEFLAGS")
        }
        done = subprocess.run(command, cwd=ROOT, env=plain | environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1].split()[0]

    assert python_of() == ".venv/bin/python"
    assert python_of(PYTHON="mine") == "mine"
    assert python_of(VIRTUAL_ENV="/env") == "/env/bin/python"
    assert python_of(VIRTUAL_ENV=str(ROOT / ".venv")) == ".venv/bin/python"
    assert python_of(CONDA_DEFAULT_ENV="base", CONDA_PREFIX="/conda") == ".venv/bin/python"
    assert python_of(CONDA_DEFAULT_ENV="mine", CONDA_PREFIX="/conda/mine") == "/conda/mine/bin/python"


def test_make_alone_lists_every_target_with_a_line():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert {"demo", "test", "test-all", "check", "docs"} <= set(listed)
    assert all(len(line.split(maxsplit=2)) == 3 and len(line) <= 120 for line in done.stdout.splitlines())
