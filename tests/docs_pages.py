"""Pages of the documentation as tests read and run them."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import kbnet
from kbnet.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Thousands of steps of a recipe become two.
SHORT_TRAINING = ["phases=[{steps=2,patch=16,batch=2}]", "optimizer.warmup_steps=0", "optimizer.hold_steps=0"]


@dataclass
class Block:
    language: str
    options: str
    code: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2].strip(), m[3], text.count("\n", 0, m.start()) + 1) for m in found]


def run_kbnet(words: list[str]) -> tuple[int, str]:
    """The command in this process: its exit code, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()


def run_command(command: str, where: str) -> str:
    """Run one line of a console block as far as a test may, and return its output."""
    command, _, comment = command.partition("  #")
    words = shlex.split(command)
    if words[0] == "pip":  # installs nothing here: its extras must exist
        assert words[1] == "install", where
        for extra in re.findall(r"\[([\w,-]+)\]", command):
            assert set(extra.split(",")) <= PROJECT["optional-dependencies"].keys(), where
        return ""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), where
        return ""
    if words[:2] == ["accelerate", "launch"]:  # tests/training/test_processes.py runs two processes
        assert words[words.index("-m") + 1] == "kbnet", where
        return ""
    assert words[0] == "kbnet", f"{where}: this test knows no way to run {command!r}"
    on_ray = "ray" in words
    if on_ray:
        pytest.importorskip("ray")
    if on_ray or "<" in words or "|" in words:  # Ray leaves threads behind, and pipes want a shell
        line = command.replace("kbnet", f"{shlex.quote(sys.executable)} -m kbnet", 1)
        package = os.pathsep.join([str(Path(kbnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": package, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment)
        code, said = done.returncode, done.stdout + done.stderr
    else:
        if words[1] == "train":
            words += [part for setting in SHORT_TRAINING for part in ("--set", setting)] + ["--workers", "0"]
        code, said = run_kbnet(words[1:])
    assert (code == 0) != (comment.strip() == "fails"), (where, code, said)
    return said


def check_output(shown: str, said: str, where: str) -> None:
    """What a page shows is what was printed; `...` stands for anything, on one line or as a line of its own."""
    pattern = ""
    for line in shown.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("...")) + r" *\n"
    assert re.fullmatch(pattern, said if said.endswith("\n") else said + "\n"), (where, shown, said)
