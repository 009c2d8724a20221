"""Mistakes in the command line, and what is printed for errors of every kind."""

import os
import sys
import types

import pytest
from cli_files import picture

import kbnet
from kbnet.errors import CheckpointError


def complaint(done):
    assert done.out == b""
    assert done.err.startswith("kbnet: error: ")
    assert done.err.count("\n") == 1
    assert done.err[:-1].isprintable()
    return done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command 'bogus'; see 'kbnet --help'"),
        (["restore"], "Missing argument 'INPUT'; see 'kbnet restore --help'"),
        (["restore", "x.png", "--zzzz"], "No such option: --zzzz; see 'kbnet restore --help'"),
        (["restore", "x.png", "--strength", "2"], "--strength"),
        (["restore", "x.png", "--quality", "0"], "--quality"),
        (["restore", "x.png", "--tile", "big"], "expected auto, 0 or a number of pixels, got 'big'"),
        (["restore", "x.png", "--task", "dance"], "--task"),
        (["restore", "x.png", "--model", "nothing"], "got 'nothing'"),
        (["restore", "x.png", "-o", "out.bmp"], "ending in png"),
        (["restore", "no*such"], "found no match for no*such"),
        (["restore", "-", "x.png"], "a pipe carries one photo"),
        (["restore", "-", "--suffix", "+"], "a pipe has no file name"),
        (["restore", "-", "--json"], "stdout carries the photo; add -o FILE"),
        (["restore", "..", "-o", "-"], "got the folder .."),
        (["restore", "x.png", "--format", "gif"], "expected an output format, one of"),
        (["convert", "x.pth", "y.bin"], "ending in .safetensors or .pth"),
        (["convert", "x.pth", "y.safetensors", "--layout", "net"], "applies only to .pth files"),
        (["info", "nothing"], "got 'nothing'"),
        (["train", "x.toml"], "--data"),
        (["train", "x.toml", "--data", ".", "--set", "lr"], "expected KEY=VALUE"),
        (["train", "x.toml", "--data", "."], "can't read the recipe x.toml"),
    ],
)
def test_mistakes_in_the_command_are_one_line_and_code_2(kbnet_, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    done = kbnet_(*arguments)
    assert words in complaint(done)
    assert done.code == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dtype", "float16"], "float16 overflows"),
        (["--device", "gramophone"], "expected a device that this machine has"),
        (["--tile", "3"], "at least 64 pixels"),
    ],
)
def test_settings_the_restorer_refuses(restore, tmp_path, options, words):
    done = restore(picture(tmp_path / "a.png"), *options)
    assert words in complaint(done)
    assert done.code == 2


def test_no_picture_is_read_from_or_written_to_a_terminal(restore, tmp_path, monkeypatch):
    controller, terminal = os.openpty()
    try:
        with os.fdopen(terminal, "r") as stream:
            monkeypatch.setattr("kbnet.cli._restore_conflicts.sys", types.SimpleNamespace(stdin=stream, stdout=stream))
            assert "not written to a terminal" in complaint(restore(picture(tmp_path / "a.png"), "-o", "-"))
            assert "stdin is a terminal" in complaint(restore("-", "-o", tmp_path / "b.png"))
    finally:
        os.close(controller)


def test_a_damaged_weights_file(kbnet_, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"no weights at all")
    for command in (["restore", picture(tmp_path / "a.png"), "--model", weights], ["info", weights]):
        done = kbnet_(*command)
        assert "w.safetensors" in complaint(done)
        assert done.code == 1


def test_a_mistake_in_the_program_is_one_line_unless_debugging(restore, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(kbnet.Restorer, "from_pretrained", broken)
    monkeypatch.delenv("KBNET_DEBUG", raising=False)
    done = restore(picture(tmp_path / "a.png"))
    assert "ZeroDivisionError: division\\nby zero. This is a bug in kbnet" in complaint(done)
    assert done.code == 1
    monkeypatch.setenv("KBNET_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        restore(picture(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CheckpointError("two\nlines \x1b[31m"), "two\\nlines \\x1b[31m"),
        (MemoryError(), "not enough memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(13, "Permission denied", "file"), "file: Permission denied"),
    ],
)
def test_errors_outside_the_files(restore, tmp_path, monkeypatch, error, words):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(kbnet.Restorer, "from_pretrained", broken)
    done = restore(picture(tmp_path / "a.png"))
    assert words in complaint(done)
    assert done.code == 1


def test_a_missing_extra_is_named_with_its_cure(kbnet_, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "accelerate"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("kbnet.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Missing("accelerate"), *sys.meta_path])
    done = kbnet_("train", "x.toml", "--data", tmp_path)
    assert "needs the package 'accelerate'" in complaint(done)
    assert "pip install 'kbnet[train]'" in done.err
    assert done.code == 1


class _Missing:
    """A finder that does not find one package, as if it were not installed."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
