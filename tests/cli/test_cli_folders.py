"""Folders of many files through the command: killed and resumed, watched, summed up."""

import errno
import json
import re
import signal
import time
from functools import partial

import pytest
from cli_files import names, picture

from kbnet import files
from kbnet.imaging import read_photo
from kbnet.inference import watching

COUNT = 200


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_end(spawn, restore, tmp_path):
    for number in range(COUNT):
        picture(tmp_path / "in" / f"{number:03}.png", 24, 32, seed=number)
    assert restore(tmp_path / "in", "-o", tmp_path / "whole", "-q").code == 0
    log, out = tmp_path / "log.jsonl", tmp_path / "out"
    command = ["-m", "kbnet", "restore", tmp_path / "in", "-o", out, "--log", log, "-q"]
    command += ["--model", next(tmp_path.parent.glob("weights*")) / "tiny.safetensors"]
    child = spawn(command)
    deadline = time.monotonic() + 120
    while not out.exists() or len(names(out)) < COUNT // 3:
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    complete = [name for name in names(out) if not name.startswith(".")]
    assert len(complete) < COUNT
    times = {name: (out / name).stat().st_mtime_ns for name in complete}
    for name in complete:  # whole, though the process was killed
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    done = restore(tmp_path / "in", "-o", out, "--log", log)
    assert done.code == 0, done.err
    assert f"{COUNT - len(complete)} restored, {len(complete)} already done; " in done.err
    assert {name: (out / name).stat().st_mtime_ns for name in complete} == times  # none was made twice
    for number in range(COUNT):  # and none is wrong
        name = f"{number:03}.png"
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events.count("skipped") == len(complete)


def test_another_strength_is_another_run(restore, tmp_path):
    picture(tmp_path / "in" / "a.png")
    options = (tmp_path / "in", "-o", tmp_path / "out", "--log", tmp_path / "log")
    assert restore(*options).code == 0
    assert restore(*options).code == 0
    assert restore(*options, "--strength", 0.5).code == 1  # would overwrite
    assert restore(*options, "--strength", 0.5, "--overwrite").code == 0


def test_other_quality_and_mark_are_another_run(restore, tmp_path):
    picture(tmp_path / "in" / "a.jpg")
    options = (tmp_path / "in", "-o", tmp_path / "out", "--log", tmp_path / "log")
    assert restore(*options).code == 0
    settings = json.loads((tmp_path / "log").read_text().splitlines()[0])["settings"]
    assert set(settings) == {"identity", "strength", "format", "quality"}  # those of older logs, which stay valid
    for other in ("--same-quality", "--no-mark"):
        assert restore(*options, other).code == 1  # would overwrite
        assert restore(*options, other, "--overwrite").code == 0
        assert restore(*options, other).code == 0


def test_photos_that_were_restored_in_place_are_restored_once(restore, tmp_path):
    sources = [picture(tmp_path / "in" / name, seed=seed) for seed, name in enumerate(("a.png", "b.png"))]
    options = (*sources, "-o", tmp_path / "in", "--overwrite", "--log", tmp_path / "log")
    assert "2 restored; " in restore(*options).err
    results = [source.read_bytes() for source in sources]
    assert "0 restored, 2 already done; " in restore(*options).err
    assert [source.read_bytes() for source in sources] == results


def test_a_folder_ends_with_a_summary(restore, tmp_path):
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", 100, 200)
    (tmp_path / "in" / "3.png").write_bytes(b"x")
    done = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert re.search(r"kbnet: 3 restored, 1 failed; mean change [\d.]+ of 255 levels; 0\.1 megapixels in ", done.err)


@pytest.mark.slow
def test_files_are_restored_as_they_come(spawn, tiny, tmp_path):
    (tmp_path / "in").mkdir()
    command = ["-m", "kbnet", "restore", tmp_path / "in", "-o", tmp_path / "out", "--watch", "--model", tiny]
    child = spawn(command)
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / name).exists():
            assert child.poll() is None, child.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert read_photo(tmp_path / "out" / name).width == 32
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert "kbnet: interrupted: 2 restored; " in child.stderr.read().decode()


def test_a_full_disk_ends_the_watch(restore, tmp_path, monkeypatch):
    def full(data, target, **options):
        raise files.failed(target, OSError(errno.ENOSPC, "No space left on device"))

    pauses = iter(range(5))

    def sleep(seconds):
        if next(pauses, None) is None:
            raise KeyboardInterrupt  # it should have ended by itself

    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(files, "write", full)
    monkeypatch.setattr(watching, "Watch", partial(watching.Watch, sleep=sleep))
    done = restore(tmp_path / "in", "-o", tmp_path / "out", "--watch")
    assert done.code == 1
    assert "the disk is full; 2 more files were not restored; free some space, and repeat the command" in done.err
    assert "1 of 3 files failed" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--log", "x", "--stream"], "--stream resumes without a log"),
        (["--watch", "--engine", "ray"], "leave out --engine ray"),
        (["--watch", "-o", "-"], "not a pipe"),
    ],
)
def test_what_does_not_go_together_is_refused(restore, tmp_path, options, words):
    picture(tmp_path / "a.png")
    if "-o" not in options:
        options = [*options, "-o", tmp_path / "out"]
    done = restore(tmp_path / "a.png", *options)
    assert done.code == 2
    assert words in done.err
