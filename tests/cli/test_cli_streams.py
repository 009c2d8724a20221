"""Standard streams that are closed, full, cut off, or of an encoding that has not all characters."""

import io
import os
import sys
from pathlib import Path

import pytest
from cli_files import names, picture

from kbnet.cli._streams import discard, prepare_streams
from kbnet.imaging import read_photo

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX descriptors")

# Runs the command with some of its descriptors closed, as a shell does for >&-.
CLOSING = (
    "import os, sys; [os.close(int(n)) for n in sys.argv[1]]; os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        picture(tmp_path / "in" / f"{number}.png", seed=number)
    return tmp_path


def ended(child):
    """(exit code, stdout, stderr) of a child."""
    out, err = child.communicate(timeout=100)
    return child.returncode, (out or b"").decode("latin-1"), err.decode("latin-1")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437"])
def test_any_encoding_can_print_everything(spawn, tiny, folder, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    picture(folder / "in" / "日本.png")
    child = spawn(["-m", "kbnet", "restore", folder / "in", "-o", folder / "out", "--model", tiny])
    code, _, err = ended(child)
    assert code == 0, err
    assert "0.png -> " in err
    assert "\\u65e5\\u672c.png -> " in err
    assert "Traceback" not in err
    assert len(names(folder / "out")) == 5


def test_replacements_are_of_the_characters_that_an_encoding_lacks_alone(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("a → b, 3×4, 1–2, é, €, …, ┃, ☃")
    stream.flush()
    assert stream.buffer.getvalue().decode("cp1252") == "a -> b, 3×4, 1–2, é, €, …, |, \\u2603\n"


def test_a_reader_that_leaves_is_no_error(spawn, tiny, folder):
    reader, writer = os.pipe()
    command = ["-m", "kbnet", "restore", folder / "in", "-o", folder / "out", "--json", "-q", "--model", tiny]
    child = spawn(command, stdout=writer)
    os.close(writer)
    assert os.read(reader, 1) == b"{"
    os.close(reader)
    code, _, err = ended(child)
    assert (code, err) == (1, "")
    for name in names(folder / "out"):  # whatever was done is whole
        assert read_photo(folder / "out" / name).width == 32


@pytest.mark.parametrize("closed", ["1", "2", "12", "012"])
def test_closed_descriptors_are_no_files_of_ours(spawn, tiny, folder, closed):
    restore = ["-m", "kbnet", "restore", folder / "in", "-o", folder / "out", "--json", "--model", tiny]
    code, _, err = ended(spawn(["-c", CLOSING, closed, *restore]))
    assert code == 0
    assert "Traceback" not in err
    assert names(folder / "out") == [f"{number}.png" for number in range(4)]
    for name in names(folder / "out"):
        assert read_photo(folder / "out" / name).width == 32  # and no message in it


def test_a_result_for_a_closed_stdout_is_not_lost_in_silence(spawn, tiny, folder):
    restore = ["-m", "kbnet", "restore", folder / "in" / "0.png", "-o", "-", "--model", tiny]
    code, _, err = ended(spawn(["-c", CLOSING, "1", *restore]))
    assert code == 2
    assert "stdout is closed; add -o FILE" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_stdout_is_named(spawn):
    with Path("/dev/full").open("wb") as full:
        code, _, err = ended(spawn(["-m", "kbnet", "models", "--json"], stdout=full))
    assert (code, err) == (1, "kbnet: error: stdout: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_a_full_device_left_in_the_buffer_is_discarded():
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        stream.write("a result")
        discard(stream)
        stream.flush()  # as the interpreter does at exit
