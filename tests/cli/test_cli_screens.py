"""What people see first: help, the table of models, the page of all options; `python tools/command_line.py` renews."""

import importlib.util
import sys
from pathlib import Path

import pytest
import typer.main

from kbnet.cli import app
from kbnet.cli._help import summary
from kbnet.models import catalogue

ROOT = Path(__file__).parents[2]
RENEW = "run python tools/command_line.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "tools" / "command_line.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def screens(tool):
    return tool.screens()


def commands(group, path="kbnet"):
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")


def test_screens_are_those_of_the_commands(tool, screens):
    assert {path.name for path in tool.SCREENS.iterdir()} == set(screens)
    for name, text in screens.items():
        assert (tool.SCREENS / name).read_text(encoding="utf-8") == text, f"{name} is out of date: {RENEW}"


def test_screens_fit_80_columns(screens):
    for name, text in screens.items():
        assert max(map(len, text.splitlines())) <= 80, name


def test_no_summary_is_cut_and_no_name_of_a_model_either(screens):
    help_text = " ".join(screens["kbnet-help.txt"].split())
    for path, command in commands(typer.main.get_command(app)):
        assert not summary(command).endswith("..."), path
        if path.count(" ") == 1:
            assert f"{path.split()[1]} {summary(command)}" in help_text
    for name, entry in catalogue().items():
        assert name in screens["kbnet-models-head.txt"]
        assert entry.task in screens["kbnet-models-head.txt"]
        assert entry.license in screens["kbnet-models-head.txt"]


def test_options_of_restore_are_in_groups_common_ones_first(screens):
    text = screens["kbnet-restore-help.txt"]
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Arguments", "Options", "Folders", "Tiles and memory", "Many processes or machines (Ray)"]
    assert text.index("--task") < text.index("--help") < text.index("--log") < text.index("--tile")
    assert text.index("--watch") < text.index("--engine")


def test_the_page_of_the_documentation_lists_every_option(tool):
    page = tool.PAGE.read_text(encoding="utf-8")
    assert page == tool.page(), f"{tool.PAGE.name} is out of date: {RENEW}"
    for path, command in commands(typer.main.get_command(app)):
        if hasattr(command, "commands"):
            continue
        section = page.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
        assert section, path
        for parameter in command.params:
            for option in parameter.opts:
                assert option in section or parameter.param_type_name == "argument", (path, option)


@pytest.mark.parametrize("width", [50, 60, 100])
def test_the_table_of_models_is_as_wide_as_columns_says(kbnet_, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    done = kbnet_("models")
    lines = done.out.decode().splitlines()
    assert max(map(len, lines[:-1])) <= width
    for name in catalogue():  # none is cut, however narrow it is
        assert any(name in line for line in lines)


def test_verbose_adds_quality_and_networks(kbnet_, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    text = kbnet_("models", "--verbose").out.decode()
    assert max(map(len, text.splitlines())) <= 100
    for entry in catalogue().values():
        for name, value in entry.metrics.items():
            assert "," in name or f"{name} {value:.2f}" in " ".join(text.split())
    assert "kbnet-l-derain" in text
    assert "--model" in text


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["restor"], "No such command 'restor'; did you mean 'restore'? See 'kbnet --help'"),
        (["restore", "x", "--tsk", "derain"], "No such option: --tsk; did you mean --task? See 'kbnet restore --help'"),
        (["restore", "x.png", "--task", "denose"], "derain, deblur; got 'denose'; did you mean 'denoise'?"),
        (["restore", "x.png", "--preset", "bst"], "expected one of fast, best, got 'bst'; did you mean 'best'?"),
        (["restore", "x.png", "--engine", "rey"], "did you mean 'ray'?"),
        (["restore", "x.png", "--model", "kbnet-nano-denoize"], "did you mean 'kbnet-nano-denoise'?"),
        (["info", "kbnet-nano-deblurr"], "did you mean 'kbnet-nano-deblur'?"),
        (["inspect", "cots"], "did you mean 'cost'?"),
        (["export", "derain", "-o", "x.onnx", "--format", "onx"], "did you mean 'onnx'?"),
    ],
)  # fmt: skip
def test_the_nearest_name_is_suggested(kbnet_, tmp_path, monkeypatch, arguments, nearest):
    monkeypatch.chdir(tmp_path)
    done = kbnet_(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert nearest in done.err


def test_a_word_like_no_other_gets_no_suggestion(kbnet_):
    assert "did you mean" not in kbnet_("restore", "x.png", "--zzzz").err


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's own variables")
def test_shells_get_completions(spawn, monkeypatch):
    def completed(line):
        monkeypatch.setenv("_KBNET_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        child = spawn(["-m", "kbnet"], stdout=-1)
        out, err = child.communicate(timeout=60)
        assert err == b""
        return out.decode().split()

    assert "restore" in completed("kbnet res")
    assert completed("kbnet restore --pre") == ["--preset"]
    assert completed("kbnet restore x.png --task der") == ["derain"]
