"""The GIMP plug-in's side of the kbnet command: a real restoration, and each failure in one line.

GIMP 3 itself isn't installed here, so the plug-in's calls to GIMP are checked only for the names they use.
"""

import ast
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from kbnet.imaging import read_photo

PLUGIN = Path(__file__).parents[1] / "plugins" / "gimp" / "kbnet-restore" / "kbnet-restore.py"


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("kbnet_gimp", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A command that is this Python's kbnet, or whatever `command(text)` writes."""
    path = tmp_path / "kbnet command"

    def write(text):
        path.write_text(f"#!{sys.executable}\n{text}\n")
        path.chmod(0o755)

    write("from kbnet.cli import main; main()")
    monkeypatch.setenv("KBNET_COMMAND", str(path))
    return write


def test_a_layer_is_restored_by_the_local_command(plugin, command, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # of GIMP's own Python
    source = tmp_path / "layer.png"
    shutil.copy(Path(__file__).parents[1] / "examples" / "noisy.jpg", tmp_path / "noisy.jpg")
    from PIL import Image

    Image.open(tmp_path / "noisy.jpg").crop((0, 0, 96, 64)).save(source)
    results = [tmp_path / f"{number}.png" for number in range(2)]
    for result, strength in zip(results, (0.0, 1.0), strict=True):
        assert plugin.restore(source, result, "denoise", strength, strength, 0.0) == []
    before, same, restored = (read_photo(path).pixels for path in (source, *results))
    assert np.array_equal(before, same)
    assert restored.shape == before.shape
    assert not np.array_equal(before, restored)


def test_notes_of_the_command_are_returned(plugin, command, tmp_path):
    command("""
import json, sys, pathlib
pathlib.Path(sys.argv[sys.argv.index('-o') + 1]).write_bytes(b'x')
print(json.dumps({'ok': True, 'error': None, 'notes': ['almost nothing changed']}))""")
    assert plugin.restore(tmp_path / "a.png", tmp_path / "b.png", "derain", 1, 1, 0) == ["almost nothing changed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from kbnet.cli import main; main()", "a.png: no such file"),
        ("import sys; print('kbnet: error: out of luck', file=sys.stderr); sys.exit(2)", "kbnet failed: out of luck"),
        ("import os; os.kill(os.getpid(), 9)", "kbnet failed: it ended with code -9"),
        ("print('not JSON')", "kbnet failed: it ended with code 0"),
        ("print('[]')", "kbnet failed: it ended with code 0"),
        ('print(\'{"error": null, "notes": []}\')', "kbnet ended with code 0"),
    ],
    ids=["no file", "wrong usage", "killed", "no JSON", "no report", "no result"],
)
def test_failures_are_one_line(plugin, command, tmp_path, text, message):
    command(text)
    with pytest.raises(plugin.RestoreError) as caught:
        plugin.restore(tmp_path / "a.png", tmp_path / "b.png", "denoise", 1, 1, 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b.png").exists()


def test_a_missing_command_is_named(plugin, monkeypatch):
    monkeypatch.setenv("KBNET_COMMAND", "/nowhere/kbnet")
    with pytest.raises(plugin.RestoreError, match="can't find the command /nowhere/kbnet"):
        plugin.find_command()


def test_tasks_are_kbnets_and_nothing_but_the_standard_library_is_imported(plugin):
    from kbnet.models import TASKS

    assert set(plugin.TASKS) <= set(TASKS)
    imported = {
        (node.module or "").partition(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.partition(".")[0]
        for node in ast.walk(ast.parse(PLUGIN.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - {"gi"} <= set(sys.stdlib_module_names)
