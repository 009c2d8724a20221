"""Files appear whole or not at all, and never over another unless asked."""

import contextlib
import errno
import io
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet import files, holding
from kbnet.errors import OutputError, OutputExistsError

OLD, NEW = b"old" * 5, b"new" * 100_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def umask(value: int):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def no_links(*_args, **_more):
    raise OSError(errno.EPERM, "Operation not permitted")


def interrupted(file, target):
    file.write(NEW)
    target.write_bytes(OLD)


def fail(write, error):
    write(NEW)
    raise error


@pytest.fixture(params=["link", "renameat2", "claim"])
def file_system(request, monkeypatch):
    """Three kinds of file systems: with hard links; without; without and no rename that refuses to replace."""
    if request.param != "link":
        monkeypatch.setattr(os, "link", no_links)
    if request.param == "claim":
        monkeypatch.setattr(files, "_rename_new", lambda temporary, target: False)
    return request.param


# What appears


def test_bytes_appear_whole_and_alone(tmp_path, file_system):
    files.write(NEW, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == NEW
    assert names(tmp_path) == ["a.bin"]


def test_until_the_end_there_is_one_private_file_of_another_name(tmp_path):
    target = tmp_path / "a.bin"
    with files.writing(target) as file:
        file.write(NEW)
        (other,) = tmp_path.iterdir()
        assert other != target
        assert other.name.startswith(".kbnet-")
        assert mode(other) == 0o600
        assert not other.is_symlink()
    assert target.read_bytes() == NEW


@pytest.mark.parametrize("write", [lambda f: np.savez(f, a=np.arange(9)), lambda f: torch.save({"a": 1}, f)])
def test_libraries_write_into_it_what_they_write_into_any_file(tmp_path, write):
    with files.writing(tmp_path / "a") as file:
        write(file)
    plain = io.BytesIO()
    write(plain)
    with zipfile.ZipFile(tmp_path / "a") as ours, zipfile.ZipFile(plain) as theirs:
        assert [ours.read(name) for name in ours.namelist()] == [theirs.read(name) for name in theirs.namelist()]


def test_a_library_may_close_it(tmp_path):
    with files.writing(tmp_path / "a") as file:
        file.write(NEW)
        file.close()
    assert (tmp_path / "a").read_bytes() == NEW


# Over another file


def test_never_over_a_file_that_is_there(tmp_path, file_system):
    target = tmp_path / "a.bin"
    target.write_bytes(OLD)
    with pytest.raises(OutputExistsError, match=r"a.bin: the file exists"):
        files.write(NEW, target)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


def test_never_over_a_file_that_appears_meanwhile(tmp_path, file_system):
    target = tmp_path / "a.bin"
    with pytest.raises(OutputExistsError, match=r"a.bin"), files.writing(target) as file:
        interrupted(file, target)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_through_a_symbolic_link(tmp_path, overwrite, file_system):
    victim, target = tmp_path / "victim", tmp_path / "a.bin"
    victim.write_bytes(OLD)
    target.symlink_to(victim)
    if overwrite:
        files.write(NEW, target, overwrite=True)
        assert target.read_bytes() == NEW
        assert not target.is_symlink()
    else:
        with pytest.raises(OutputExistsError):
            files.write(NEW, target)
    assert victim.read_bytes() == OLD


def test_a_link_to_nothing_is_in_the_way_too(tmp_path, file_system):
    (tmp_path / "a.bin").symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputExistsError):
        files.write(NEW, tmp_path / "a.bin")
    assert not (tmp_path / "nothing").exists()


def test_a_link_planted_at_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(OLD)
    planted = ".kbnet-00000000-0000000000000000.part"
    monkeypatch.setattr(holding, "temporary_name", lambda: planted)
    (tmp_path / planted).symlink_to(victim)
    with pytest.raises(OutputError):
        files.write(NEW, tmp_path / "a.bin")
    assert victim.read_bytes() == OLD


@pytest.mark.parametrize("special", ["folder", "fifo"])
def test_a_folder_or_device_is_not_replaced(tmp_path, special):
    target = tmp_path / "a.bin"
    target.mkdir() if special == "folder" else os.mkfifo(target)
    with pytest.raises(OutputError, match=r"a.bin: expected a file name for the output"):
        files.write(NEW, target, overwrite=True)
    assert not target.is_file()


# Modes, owners, times


@pytest.mark.parametrize("value", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path, value):
    with umask(value):
        (tmp_path / "plain").touch()
        files.write(NEW, tmp_path / "ours")
    assert mode(tmp_path / "ours") == mode(tmp_path / "plain") == 0o666 & ~value


@pytest.mark.parametrize("before", [0o600, 0o640, 0o444, 0o777])
def test_the_mode_of_a_replaced_file_is_kept(tmp_path, before):
    target = tmp_path / "a.bin"
    target.write_bytes(OLD)
    target.chmod(before)
    files.write(NEW, target, overwrite=True)
    assert mode(target) == before
    assert target.read_bytes() == NEW


def test_overwrite_of_nothing_makes_a_new_file(tmp_path):
    with umask(0o022):
        files.write(NEW, tmp_path / "a.bin", overwrite=True)
    assert mode(tmp_path / "a.bin") == 0o644


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_replaced_file_is_kept(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(OLD)
    os.chown(target, 1234, 5678)
    files.write(NEW, target, overwrite=True)
    assert (target.stat().st_uid, target.stat().st_gid) == (1234, 5678)


def test_a_group_that_cannot_be_kept_gains_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.bin"
    target.write_bytes(OLD)
    target.chmod(0o664)
    real = files.os.fstat

    def of_another_group(descriptor):
        facts = list(real(descriptor))
        facts[stat.ST_GID] += 1
        return os.stat_result(facts)

    monkeypatch.setattr(files.os, "fchown", no_links)
    monkeypatch.setattr(files.os, "fstat", of_another_group)
    files.write(NEW, target, overwrite=True)
    assert mode(target) == 0o644


def test_times_are_kept_on_request(tmp_path):
    times = (1_000_000_000_000_000_123, 1_100_000_000_000_000_456)
    files.write(NEW, tmp_path / "a.bin", times=times)
    facts = (tmp_path / "a.bin").stat()
    assert (facts.st_atime_ns, facts.st_mtime_ns) == times


# What goes wrong


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.EIO, "of the input"), KeyboardInterrupt(), SystemExit(1)]
)
def test_what_the_block_raises_passes_unchanged_and_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)) as caught, files.writing(tmp_path / "a.bin") as file:
        fail(file.write, error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_full_disk_names_the_output_and_what_to_do(tmp_path, file_size_limit):
    with file_size_limit(1000), pytest.raises(OutputError, match=r"a.bin: can't be written: file too large; write"):
        files.write(NEW, tmp_path / "a.bin")
    assert names(tmp_path) == []


def test_a_full_disk_is_told_whatever_a_library_makes_of_it(tmp_path, file_size_limit):
    state = {"weight": torch.zeros(100_000)}
    told = pytest.raises(OutputError, match=r"a.bin: can't be written: file too large")
    with file_size_limit(1000), told, files.writing(tmp_path / "a.bin") as file:
        torch.save(state, file)  # raises a RuntimeError of its own
    with file_size_limit(1000), told, files.writing(tmp_path / "a.bin") as file, contextlib.suppress(OSError):
        file.write(NEW)  # a library that keeps the failure to itself
    assert names(tmp_path) == []


def test_a_full_disk_at_the_last_buffered_byte(tmp_path, file_size_limit):
    with file_size_limit(10), pytest.raises(OutputError, match=r"a.bin"), files.writing(tmp_path / "a.bin") as file:
        file.write(b"x" * 100)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none/a.bin", "none/a.bin: its folder does not exist; create it first"),
        ("a" * 300, "file name too long; choose a shorter name"),
        ("a\0b", r"a\\x00b: can't be written"),
        ("file/a.bin", "file/a.bin: can't be written: not a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message):
        files.write(NEW, tmp_path / name)
    assert names(tmp_path) == ["file"]


# A folder to work in


def test_a_workspace_is_private_and_disappears(tmp_path):
    with files.workspace(tmp_path / "model.xml") as folder:
        assert folder.parent == tmp_path
        assert mode(folder) == 0o700
        (folder / "model.xml").write_bytes(NEW)
        (folder / "rest").write_bytes(NEW)
        files.place(folder / "model.xml", tmp_path / "model.xml")
    assert names(tmp_path) == ["model.xml"]
    assert (tmp_path / "model.xml").read_bytes() == NEW


@pytest.mark.parametrize("error", [OSError(errno.EIO, "of the input"), KeyboardInterrupt()])
def test_a_workspace_disappears_on_any_exception(tmp_path, error):
    with pytest.raises(type(error)) as caught, files.workspace(tmp_path / "a") as folder:
        fail((folder / "a").write_bytes, error)
    assert caught.value is error
    assert names(tmp_path) == []


def test_placing_keeps_the_mode_and_never_replaces_unasked(tmp_path, file_system):
    target = tmp_path / "a"
    target.write_bytes(OLD)
    target.chmod(0o600)
    with files.workspace(target) as folder:
        (folder / "a").write_bytes(NEW)
        with pytest.raises(OutputExistsError):
            files.place(folder / "a", target)
        assert (folder / "a").exists()
        files.place(folder / "a", target, overwrite=True)
    assert target.read_bytes() == NEW
    assert mode(target) == 0o600


# A second name


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("before", ["missing", "another", "the same"])
def test_a_second_name_is_the_file_of_now(tmp_path, monkeypatch, links, before):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(NEW)
    if before == "another":
        two.write_bytes(OLD)
    if before == "the same":
        os.link(one, two)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    files.also_as(one, two)
    files.write(OLD, one, overwrite=True)
    assert two.read_bytes() == NEW
    assert names(tmp_path) == ["one", "two"]
