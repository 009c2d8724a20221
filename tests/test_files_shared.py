"""Files and folders that several processes share: what killed ones leave, and one writer at a time."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kbnet import files, holding
from kbnet.errors import OutputError, TrainingError

OLD, NEW = b"old" * 5, b"new" * 100_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What killed processes leave

KILLED = """
import os, sys
from pathlib import Path
from kbnet import files, holding
target = Path(sys.argv[1])
with files.writing(target) as file, files.workspace(target) as folder:
    file.write(b"half"); file.flush()
    (folder / "part").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(code: str, *arguments: object):
    """A process that has printed its first line; killed in the end."""
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as child:  # type: ignore[call-overload]
        try:
            assert child.stdout.readline() == b"ready\n"
            yield child
        finally:
            child.kill()


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.bin"
    keep = [".kbnet-notes.part", ".kbnet-0123456789abcdef.part", ".other"]
    for name in keep:
        (tmp_path / name).write_bytes(OLD)
    (tmp_path / f".kbnet-{'0' * 8}-{'1' * 16}.part").write_bytes(b"of another machine, which may be alive")
    old = tmp_path / f".kbnet-{'0' * 8}-{'2' * 16}.part"
    old.write_bytes(b"of another machine, which is not")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    planted = tmp_path / f".kbnet-{holding._mark()}-{'3' * 16}.part"
    planted.symlink_to(tmp_path / ".other")
    with another_process(KILLED, target) as child:
        monkeypatch.setattr(holding, "_swept", set())
        files.write(NEW, tmp_path / "b.bin")
        assert len(list(tmp_path.glob(f".kbnet-{holding._mark()}-*"))) == 3, "it is alive, and so are its files"
        child.kill()
        child.wait()
    assert not target.exists()
    monkeypatch.setattr(holding, "_swept", set())
    files.write(NEW, target)
    left = {".kbnet-" + "0" * 8 + "-" + "1" * 16 + ".part", planted.name}
    assert set(names(tmp_path)) == {"a.bin", "b.bin", *keep, *left}
    assert (tmp_path / ".other").read_bytes() == OLD


def test_discarding_removes_files_folders_and_links_but_not_what_they_point_to(tmp_path):
    (tmp_path / "state" / "deep").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    (tmp_path / "state" / "deep" / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for name in ("state", "link", "missing"):
        files.discard(tmp_path / name)
    assert names(tmp_path) == ["victim"]
    assert names(tmp_path / "victim") == ["file"]


# One writer

HOLDS = """
import sys
from pathlib import Path
from kbnet import files, holding
with files.hold(Path(sys.argv[1]), doing="training"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_process_and_free_when_that_is_killed(tmp_path):
    folder = tmp_path / "new" / "run"
    with another_process(HOLDS, folder) as child:
        words = {"doing": "training", "otherwise": "use another --run folder"}
        with pytest.raises(TrainingError) as caught, files.hold(folder, **words, error=TrainingError):
            pass
        assert str(caught.value) == (
            f"another process (pid {child.pid}) is training in {folder}; wait for it, stop it, or use another "
            "--run folder"
        )
        child.kill()
        child.wait()
        with files.hold(folder):
            assert names(folder) == []


def test_a_folder_is_free_again_after_an_exception_which_passes_unchanged(tmp_path):
    error = OSError(errno.EIO, "of the block")
    with pytest.raises(OSError, match="of the block") as caught, files.hold(tmp_path):
        raise error
    assert caught.value is error
    with files.hold(tmp_path), pytest.raises(OutputError, match="wait for it, stop it"), files.hold(tmp_path):
        pass


def test_a_folder_that_its_holder_removed_is_not_the_one_that_is_held(tmp_path, monkeypatch):
    folder = tmp_path / "state"
    real, seen = holding.lock, []

    def removed_meanwhile(descriptor, path, **words):
        real(descriptor, path, **words)
        seen.append(descriptor)
        if len(seen) == 1:
            files.discard(path)

    monkeypatch.setattr(holding, "lock", removed_meanwhile)
    with files.hold(folder):
        assert folder.is_dir()
    assert len(seen) == 2


def test_a_folder_of_state_is_not_reached_through_a_link_and_is_private(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="link: can't be written"), files.hold(tmp_path / "link", follow=False):
        pass
    (tmp_path / "state").mkdir(0o755)
    with files.hold(tmp_path / "state", follow=False):
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    with files.hold(tmp_path / "link"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_state_that_another_user_planted_is_refused(tmp_path):
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 1234, 1234)
    with (
        pytest.raises(OutputError, match="state: belongs to another user"),
        files.hold(tmp_path / "state", follow=False),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/run: can't be written"), files.hold(tmp_path / "file" / "run"):
        pass


def test_who_sweeps_and_who_writes_do_not_get_into_each_others_way(tmp_path, monkeypatch):
    """Writers make files all the time while leftovers are looked for all the time: no living one is taken for one."""
    stop, failures = threading.Event(), []

    def write(number):
        try:
            for turn in range(60):
                target = tmp_path / f"{number}-{turn}"
                with files.writing(target) as file, files.workspace(target) as folder:
                    file.write(b"1")
                    (folder / "part").touch()
        except BaseException as error:
            failures.append(error)

    def sweep():
        while not stop.is_set():
            holding._swept.clear()
            holding.sweep(tmp_path)

    monkeypatch.setattr(holding, "_swept", set())
    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    sweeper = threading.Thread(target=sweep)
    for thread in (sweeper, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    sweeper.join()
    assert failures == []
    assert names(tmp_path) == sorted(f"{number}-{turn}" for number in range(3) for turn in range(60))
