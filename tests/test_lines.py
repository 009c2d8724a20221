"""Files that grow line by line: whole lines whatever happens, one writer, and nothing believed."""

import errno
import json
import os
import stat

import pytest

from kbnet.errors import OutputError, TrainingError
from kbnet.inference.ledger import Ledger
from kbnet.lines import Lines, read_lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "log.jsonl"


def entries(path):
    with Lines(path) as lines:
        return lines.entries


def test_what_was_appended_is_there_at_the_next_opening(path):
    with Lines(path) as lines:
        assert lines.entries == []
        lines.append({"a": 1})
        assert json.loads(path.read_text()) == {"a": 1}
        lines.append({"b": "ü\n"})
    assert entries(path) == [{"a": 1}, {"b": "ü\n"}]
    assert [p.name for p in path.parent.iterdir()] == ["log.jsonl"]


def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(path):
    with Lines(path) as lines:
        for number in range(3):
            lines.append({"n": number})
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        whole = [{"n": number} for number in range(data[: end + 1].count(b"\n"))]
        with Lines(path) as lines:
            assert lines.entries == whole
            lines.append({"more": True})
        assert entries(path) == [*whole, {"more": True}]


@pytest.mark.parametrize("rest", [b"\xff\x00{\n", b"[1]\nnull\n7\n", b'{"a": \n', b"\0" * 4096, b"[" * 100_000 + b"\n"])
def test_lines_of_nonsense_are_passed_by(path, rest):
    with Lines(path) as lines:
        lines.append({"a": 1})
    with path.open("ab") as file:
        file.write(rest)
    with Lines(path) as lines:
        assert lines.entries == [{"a": 1}]
        lines.append({"b": 2})
    assert entries(path) == [{"a": 1}, {"b": 2}]
    assert read_lines(b"") == []


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"a diary\n", b'{\n "settings": 1\n}\n', b"[1, 2]"]
)
def test_a_file_of_another_kind_is_not_written_to(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(OutputError, match="expected a file of JSON lines or a new name, got something else; choose"):
        Lines(path)
    assert path.read_bytes() == content


def test_a_log_is_not_kept_in_other_json_lines(path):
    with Lines(path) as lines:
        lines.append({"step": 1, "loss": 0.5})
    before = path.read_bytes()
    with pytest.raises(OutputError, match="expected a log or a new name, got other JSON; choose another --log"):
        Ledger(path, {})
    assert path.read_bytes() == before


def test_a_pipe_is_refused_and_nobody_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="expected the name of a file, got a pipe or device"):
        Lines(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"null: expected the name of a file"):
        Lines(tmp_path / "../../../../../../dev/null")


def test_one_writer(path):
    with Lines(path) as lines:
        with pytest.raises(TrainingError, match=r"is training into .*log\.jsonl; wait for it, stop it, or go away"):
            Lines(path, doing="training into", otherwise="go away", error=TrainingError)
        lines.append({"a": 1})
    assert entries(path) == [{"a": 1}]


def test_a_disk_that_fills_up_in_a_line_leaves_the_lines_before_it(path, monkeypatch):
    def full(descriptor, data):
        if len(data) > 5:
            return write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    write = os.write
    with Lines(path) as lines:
        lines.append({"a": 1})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OutputError, match=r"log\.jsonl: can't be written: no space left on device; free"):
                lines.append({"b": 2})
        assert path.read_bytes() == b'{"a": 1}\n'
        lines.append({"c": 3})
    assert entries(path) == [{"a": 1}, {"c": 3}]


def test_a_new_file_has_the_mode_of_any_new_file(path):
    before = os.umask(0o027)
    try:
        Lines(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
