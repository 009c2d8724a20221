"""The state of a run by rows is doubted: whatever is wrong with it, the picture is that of an uninterrupted run."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_networks import kbnet_s, loud, on_cpu

import kbnet
from kbnet import files, holding
from kbnet.errors import ImageError, OutputError, OutputExistsError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.streaming import restore_streamed

NETWORK = loud(kbnet_s, 3)
STATE = ".out.tif.kbnet-rows"
DONE, TILES = 9, 12  # three in a row


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (203, 150, 3), dtype=np.uint8)


def restorer(**options):
    return on_cpu(NETWORK, **{"tile": 64, "overlap": 16, "context": "global"} | options)


def interrupt(source, target, after, **options):
    """A run that is stopped after some tiles."""

    def stop(done, total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_streamed(options.pop("restorer", restorer()), source, target, progress=stop, **options)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A picture, what an uninterrupted run makes of it, and the state of one that was stopped in the middle."""
    folder = tmp_path_factory.mktemp("original")
    write_photo(Photo(picture(0)), folder / "in.tif")
    restore_streamed(restorer(), folder / "in.tif", folder / "expected.tif")
    interrupt(folder / "in.tif", folder / "out.tif", 10)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def finish(folder, **options):
    """Go on, and hold the result to the uninterrupted one's bytes."""
    done = restore_streamed(options.pop("restorer", restorer()), folder / "in.tif", folder / "out.tif", **options)
    expected = read_photo(folder / "expected.tif").pixels
    np.testing.assert_array_equal(read_photo(folder / "out.tif").pixels, expected)
    assert names(folder) == ["expected.tif", "in.tif", "out.tif"]
    return done


def test_a_state_that_is_whole_is_gone_on_with(folder):
    done = finish(folder)
    assert (done.resumed, done.notes) == (DONE, ())
    assert done.tiles == TILES


def test_a_picture_that_was_moved_and_touched_is_the_same_picture(folder):
    shutil.copy(folder / "in.tif", folder / "moved.tif")
    (folder / "in.tif").unlink()
    (folder / "moved.tif").rename(folder / "in.tif")
    assert finish(folder).resumed == DONE


def cut(path, size=100):
    path.write_bytes(path.read_bytes()[:-size])


def add(path, data):
    path.write_bytes(path.read_bytes() + data)


def flip(path, where=-50):
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)


def rewrite(state, event, **values):
    """Change the lines of an event in the ledger."""
    path = state / "ledger.jsonl"
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_text("".join(json.dumps(e | values if e["event"] == event else e) + "\n" for e in lines))


def drop(state, event, which):
    path = state / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if json.loads(line)["event"] == event]
    del lines[places[which]]
    path.write_bytes(b"".join(lines))


def by_link(path):
    moved = path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(moved)


DAMAGE = {
    "rows missing": lambda s: (s / "rows.raw").unlink(),
    "rows cut": lambda s: cut(s / "rows.raw", 30_000),
    "rows empty": lambda s: (s / "rows.raw").write_bytes(b""),
    "one bit of the rows": lambda s: flip(s / "rows.raw", 1000),
    "rows of another file": lambda s: (s / "rows.raw").write_bytes(os.urandom((s / "rows.raw").stat().st_size)),
    "rows a folder": lambda s: ((s / "rows.raw").unlink(), (s / "rows.raw").mkdir()),
    "rows a pipe": lambda s: ((s / "rows.raw").unlink(), os.mkfifo(s / "rows.raw")),
    "sums missing": lambda s: (s / "carried-3.npy").unlink(),
    "sums cut": lambda s: cut(s / "carried-3.npy"),
    "one bit of the sums": lambda s: flip(s / "carried-3.npy"),
    "sums of another band": lambda s: np.save(s / "carried-3.npy", np.zeros((1, 3, 16, 152), np.float32)),
    "averages missing": lambda s: (s / "means.npz").unlink(),
    "averages cut": lambda s: cut(s / "means.npz"),
    "averages of another picture": lambda s: np.savez(s / "means.npz", mean0000=np.zeros(3)),
    "ledger missing": lambda s: (s / "ledger.jsonl").unlink(),
    "ledger empty": lambda s: (s / "ledger.jsonl").write_bytes(b""),
    "ledger something else": lambda s: (s / "ledger.jsonl").write_bytes(os.urandom(1000)),
    "ledger other JSON": lambda s: (s / "ledger.jsonl").write_text('{"state": 1}\n' * 3),
    "ledger a folder": lambda s: ((s / "ledger.jsonl").unlink(), (s / "ledger.jsonl").mkdir()),
    "ledger a pipe": lambda s: ((s / "ledger.jsonl").unlink(), os.mkfifo(s / "ledger.jsonl")),
    "ledger without a plan": lambda s: drop(s, "plan", 0),
    "ledger without a band": lambda s: drop(s, "band", 0),
    "other settings": lambda s: [rewrite(s, e, settings_sha256="0" * 64) for e in ("settings", "plan", "band")],
    "a plan of nonsense": lambda s: rewrite(s, "plan", side="64", limit=None),
    "a plan of other tiles": lambda s: rewrite(s, "plan", side=128),
    "bands of nonsense": lambda s: rewrite(s, "band", done=None, bottom=[], carried_sha256=3),
    "bands beyond the picture": lambda s: rewrite(s, "band", bottom=10**9),
    "state of an older kind": lambda s: (
        [p.unlink() for p in s.iterdir() if p.name != "rows.raw"],
        (s / "state.json").write_text('{"of": {}, "done": 2, "settings": {"side": 64}}'),
    ),
}
HARMLESS = {
    "rows of a band that was not finished": lambda s: add(s / "rows.raw", b"x" * 999),
    "the last line cut": lambda s: cut(s / "ledger.jsonl", 20),
    "lines of nonsense": lambda s: add(s / "ledger.jsonl", b"\0\0{]\n[1]\n{\n"),
    "files that nobody wrote": lambda s: (s / "carried-9.npy").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", [*DAMAGE, *HARMLESS])
def test_whatever_is_wrong_with_the_state_the_picture_is_right(folder, damage):
    (DAMAGE | HARMLESS)[damage](folder / STATE)
    done = finish(folder)
    if damage in DAMAGE:
        assert done.resumed == 0
        assert done.notes[-1].startswith("started over: the state of an earlier run ")


@pytest.mark.parametrize("what", ["rows.raw", "ledger.jsonl", "carried-3.npy", "means.npz"])
def test_links_in_the_state_are_not_written_through(folder, what):
    by_link(folder / STATE / what)
    before = (folder / "elsewhere").read_bytes()
    expected = read_photo(folder / "expected.tif").pixels
    restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
    np.testing.assert_array_equal(read_photo(folder / "out.tif").pixels, expected)
    if what != "ledger.jsonl":  # which is appended to, and says no wrong
        assert (folder / "elsewhere").read_bytes() == before


def test_the_state_of_other_weights_settings_and_pictures_is_not_used(folder):
    for options in ({"strength": 0.5}, {"restorer": on_cpu(loud(kbnet_s, 2), tile=64, overlap=16, context="global")}):
        target = folder / "other.tif"
        interrupt(folder / "in.tif", target, 10, **options)
        done = restore_streamed(restorer(), folder / "in.tif", target)
        assert done.resumed == 0
        assert done.notes == (
            "started over: the state of an earlier run belongs to another image, other weights or other settings",
        )
        np.testing.assert_array_equal(read_photo(target).pixels, read_photo(folder / "expected.tif").pixels)
        target.unlink()
    write_photo(Photo(picture(1)), folder / "in.tif", overwrite=True)
    restore_streamed(restorer(), folder / "in.tif", folder / "expected.tif", overwrite=True)
    assert finish(folder).resumed == 0


def test_the_state_of_another_instruction_set_is_not_used(folder, monkeypatch):
    monkeypatch.setattr("kbnet.inference.identity.instruction_set", lambda: "another")
    assert finish(folder).resumed == 0


def test_the_state_of_another_version_is_not_used(folder, monkeypatch):
    monkeypatch.setattr("kbnet.inference.ledger._VERSION", 2)
    assert finish(folder).resumed == 0


def test_a_second_run_into_one_target_is_refused_and_disturbs_nothing(folder):
    refused = []

    def meanwhile(done, total):
        if not refused:
            with pytest.raises(OutputError, match=r"is restoring rows in .*; wait for it, stop it, or choose") as error:
                restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
            refused.append(error)

    assert finish(folder, progress=meanwhile).resumed == DONE
    assert refused


def test_the_state_is_private_and_a_planted_one_is_refused(folder):
    assert stat.S_IMODE((folder / STATE).stat().st_mode) == 0o700
    shutil.rmtree(folder / STATE)
    (folder / "elsewhere").mkdir()
    (folder / STATE).symlink_to(folder / "elsewhere")
    with pytest.raises(OutputError, match="kbnet-rows: can't be written"):
        restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
    assert names(folder / "elsewhere") == []


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_mode_of_a_replaced_original_is_kept(folder, mode):
    shutil.copy(folder / "in.tif", folder / "out.tif")
    (folder / "out.tif").chmod(mode)
    finish(folder, overwrite=True)
    assert stat.S_IMODE((folder / "out.tif").stat().st_mode) == mode


def test_a_file_that_appears_meanwhile_is_kept(folder):
    def appear(done, total):
        (folder / "out.tif").write_bytes(b"precious")

    with pytest.raises(OutputExistsError):
        restore_streamed(restorer(), folder / "in.tif", folder / "out.tif", progress=appear)
    assert (folder / "out.tif").read_bytes() == b"precious"
    (folder / "out.tif").unlink()
    assert finish(folder).resumed == TILES


def test_an_output_that_cannot_be_written_is_not_blamed_on_the_input(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"out\.tif: can't be written: no space left on device; free some space"):
            restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
    finish(folder)


def test_a_full_disk_costs_no_finished_rows(folder, monkeypatch):
    def full(path, flags, *rest):
        if str(path).endswith(("rows.raw", "ledger.jsonl")):
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *rest)

    opened = os.open
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(OutputError, match="no space left on device; free some space"):
            restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
    assert finish(folder).resumed == DONE


def test_a_run_that_fails_before_its_first_rows_leaves_nothing(folder):
    shutil.rmtree(folder / STATE)
    with pytest.raises(ZeroDivisionError):
        restore_streamed(restorer(context="tile"), folder / "in.tif", folder / "out.tif", progress=lambda *_: 1 / 0)
    assert names(folder) == ["expected.tif", "in.tif"]


def test_an_error_of_the_caller_is_nobodys(folder):
    error = OSError(errno.EPIPE, "of the progress bar")

    def broken(done, total):
        raise error

    with pytest.raises(OSError, match="of the progress bar") as caught:
        restore_streamed(restorer(), folder / "in.tif", folder / "out.tif", progress=broken)
    assert caught.value is error
    assert not isinstance(caught.value, ImageError)


def test_a_picture_that_changes_while_it_is_restored_gives_no_result(folder):
    def change(done, total):
        os.utime(folder / "in.tif", ns=(1, 1))

    with pytest.raises(UnreadableImageError, match=r"in\.tif: the file changed while it was being restored"):
        restore_streamed(restorer(), folder / "in.tif", folder / "out.tif", progress=change)
    assert names(folder) == ["expected.tif", "in.tif"]


def test_a_damaged_picture_leaves_no_state(folder):
    write_photo(Photo(picture(0)), folder / "cut.png")
    cut(folder / "cut.png", 20_000)
    before = names(folder)
    with pytest.raises(UnreadableImageError, match=r"cut\.png"):
        restore_streamed(restorer(context="tile"), folder / "cut.png", folder / "new.tif")
    assert names(folder) == before


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedImageError, match="--stream needs a file, not a pipe"):
        restore_streamed(restorer(), tmp_path / "pipe", tmp_path / "out.tif")


def test_times_are_kept_on_request(folder):
    finish(folder, times=(1_000_000_000_000_000_000, 1_100_000_000_000_000_000))
    assert (folder / "out.tif").stat().st_mtime_ns == 1_100_000_000_000_000_000


@pytest.mark.parametrize(("strength", "resumed"), [(1.0, TILES), (0.5, 0)])
def test_a_run_in_place_that_ended_before_it_removed_its_state_is_finished(tmp_path, monkeypatch, strength, resumed):
    def stop(path):
        raise KeyboardInterrupt

    path = tmp_path / "in.tif"
    write_photo(Photo(picture(0)), path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "discard", stop)
        with pytest.raises(KeyboardInterrupt):
            restore_streamed(restorer(), path, path, overwrite=True, times=(10**18, 11 * 10**17))
    result = path.read_bytes()
    assert path.stat().st_mtime_ns == 11 * 10**17
    assert len(names(tmp_path)) == 2
    done = restore_streamed(restorer(), path, path, strength=strength, overwrite=True)
    assert done.resumed == resumed
    assert (path.read_bytes() == result) == (strength == 1)  # other settings are another run
    assert names(tmp_path) == ["in.tif"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_rowstate import restorer
from kbnet import files
from kbnet.inference import streaming

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where, folder = sys.argv[1], Path(sys.argv[2])
if where == "before the result":
    files.place = die
elif where == "after the result":
    place = files.place
    files.place = lambda *a, **o: (place(*a, **o), die())
elif where == "before cleaning up":
    files.discard = die
elif where == "while cleaning up":
    remove = files.remove
    files.remove = lambda path: die() if path.is_dir() else remove(path)
streaming.restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before the result", "after the result", "before cleaning up", "while cleaning up"])
def test_a_run_killed_around_its_end_is_finished_by_the_next(folder, where, monkeypatch):
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{Path(kbnet.__file__).parents[1]}{os.pathsep}{tests}"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(folder), str(tests)], env=environment, capture_output=True, text=True
    )
    assert killed.returncode == -9, killed.stderr
    monkeypatch.setattr(holding, "_swept", set())  # as in a process of its own
    if where == "while cleaning up":
        with pytest.raises(OutputExistsError):
            restore_streamed(restorer(), folder / "in.tif", folder / "out.tif")
        assert names(folder) == ["expected.tif", "in.tif", "out.tif"]
    else:
        assert finish(folder).resumed == TILES
