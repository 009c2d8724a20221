"""The house stays as ARCHITECTURE.md draws it."""

import ast
import tomllib
from pathlib import Path

import pytest

import kbnet

ROOT = Path(__file__).parents[1]
PACKAGE = Path(kbnet.__file__).parent
SOURCES = sorted(path for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 420
# Run, not imported: they stand outside the order of rooms.
ENTRANCES = {"__init__", "__main__"}


def contract():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]


# In a process of its own, because the linter sets up logging and the search path anew for the whole process.
LINT = """
import os, sys
from importlinter.cli import lint_imports
os.chdir(sys.argv[1])
sys.exit(lint_imports(no_cache=True, no_logo=True))
"""


def test_each_room_imports_only_the_rooms_below_it(run_python):
    report = run_python(LINT, str(ROOT))
    assert f"{contract()['name']} KEPT" in report


def test_every_room_has_its_place_in_the_order():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    listed = {name.strip() for layer in contract()["layers"] for name in layer.split("|")}
    assert {f"kbnet.{room}" for room in rooms - ENTRANCES} == listed


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_read(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: this wants to be two files"


def test_the_files_looked_at_are_the_packages():
    assert len(SOURCES) > 30
    assert ROOT / "src" / "kbnet" / "ops" / "reference.py" in SOURCES


def test_every_module_and_every_public_name_says_what_it_is_for():
    silent = []
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        public = [
            node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        ]
        silent += [
            f"{path.relative_to(ROOT)}: {getattr(n, 'name', 'module')}"
            for n in [tree, *public]
            if not ast.get_docstring(n)
        ]
    assert silent == []
