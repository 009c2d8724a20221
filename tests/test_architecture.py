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


# What puts a file in place, or writes into one that is in place already: `kbnet.files` does it, and nobody else.
PLACING = {"os.replace", "os.rename", "os.renames", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"}
PLACING |= {"shutil.copy", "shutil.copy2"}
METHODS = {"rename", "hardlink_to", "symlink_to", "write_bytes", "write_text"}
PLACERS = {"files.py", "holding.py"}
# Files of their own, which never become outputs: they are sent, loaded or mapped, and removed.
TEMPORARY = {"data/shared.py", "distributed/worker.py", "models/hub.py"}


def placing(tree):
    """Calls that put a file in place, as (line, what)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            # str.replace takes two, dataclasses.replace and datetime's take keywords
            moved = name == "replace" and "." in called and len(node.args) == 1 and not node.keywords
            opened = name in ("open", "fdopen") and any(_writes(value) for value in [*node.args, *node.keywords])
            drawn = name == "savefig" and ast.unparse(node.args[0]) != "file"
            if called in PLACING or moved or opened or drawn or (name in METHODS and "." in called):
                yield node.lineno, called
        elif isinstance(node, ast.Import | ast.ImportFrom) and "tempfile" in ast.unparse(node):
            yield node.lineno, "tempfile"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from ((node.lineno, a.name) for a in node.names if f"{node.module}.{a.name}" in PLACING)


def _writes(argument):
    value = argument.value if isinstance(argument, ast.keyword) else argument
    text = value.value if isinstance(value, ast.Constant) else None
    return isinstance(text, str) and 0 < len(text) <= 4 and set(text) <= set("rwxabt+") and bool(set(text) & set("wx"))


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py")], ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_put_in_place_in_one_module_alone(path):
    found = list(placing(ast.parse(path.read_text(encoding="utf-8"))))
    name = path.relative_to(PACKAGE).as_posix()
    if name in TEMPORARY:
        found = [one for one in found if one[1] != "tempfile" and not one[1].endswith(").write_bytes")]
    assert name in PLACERS or found == [], "use kbnet.files"


def test_every_way_of_putting_a_file_in_place_is_seen():
    ways = """
import os, shutil, tempfile
from os import replace
os.replace(a, b)
os.rename(a, b)
shutil.move(a, b)
Path(a).replace(b)
temporary.rename(b)
path.write_text("x")
path.open("wb")
open(path, mode="x")
figure.savefig(path)
"""
    assert [line for line, _ in placing(ast.parse(ways))] == list(range(2, 13))
    others = '"a".replace("b", "c"); replace(a, b=1); dataclasses.replace(a, b=1); path.open("rb"); open(p, "ab")'
    assert list(placing(ast.parse(others))) == []
