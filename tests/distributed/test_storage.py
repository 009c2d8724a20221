"""Files by path and URL: the same bytes, literal names, whole or not at all."""

import errno
import os
import threading
from pathlib import Path

import pytest

from kbnet.distributed import storage
from kbnet.errors import InvalidInputError, KBNetError, OutputError, OutputExistsError, UnreadableImageError

# file: through pyarrow, as s3 and gs go; local: through fsspec, as all others go
FORMS = {"path": "{}", "pyarrow": "file://{}", "fsspec": "local://{}"}
NAMES = ["a.png", "deep/er/b.png", "with space.png", "100%.png", "a%20b.png", "häßlich.png", "plus+and&.png", "#1.png"]


@pytest.fixture(params=FORMS)
def place(request, tmp_path):
    if request.param != "path":
        pytest.importorskip("pyarrow")
    return lambda name: FORMS[request.param].format(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_under_its_literal_name(place, name, tmp_path):
    data = bytes(range(256)) * 3
    storage.write(place(name), data)
    assert storage.read(place(name)) == data
    assert (tmp_path / name).read_bytes() == data


def test_a_file_is_replaced_when_asked_and_leaves_nothing_beside_it(place, tmp_path):
    storage.write(place("a.png"), b"old")
    with pytest.raises(OutputExistsError, match=r"a\.png: the file exists"):
        storage.write(place("a.png"), b"new")
    storage.write(place("a.png"), b"new", overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"new")]


@pytest.mark.skipif(os.name == "nt", reason="has other permissions")
def test_a_new_file_gets_the_times_and_the_permissions_that_are_asked_for(tmp_path):
    (tmp_path / "like").touch()
    (tmp_path / "like").chmod(0o600)
    # both ways of naming a local file; pyarrow is not needed for them
    for form in ("{}", "file://{}"):
        target = tmp_path / "out" / "a.png"
        storage.write(form.format(target), b"new", overwrite=True, times=(10**18, 10**18 + 1), like=tmp_path / "like")
        state = target.stat()
        assert (state.st_mode & 0o777, state.st_mtime_ns) == (0o600, 10**18 + 1)
        target.unlink()


def test_places_are_the_same_however_they_are_spelled(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert storage.same(str(tmp_path / "a"), f"file://{tmp_path}/link/a")
    assert storage.same("s3://bucket/a", "s3://bucket/a")
    assert not storage.same("s3://bucket/a", "s3://bucket/b")
    assert not storage.same(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not storage.same(str(tmp_path / "a"), "s3://bucket/a")


def test_links_are_not_written_through(place, tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputExistsError):
        storage.write(place("out/a.png"), b"new")
    storage.write(place("out/a.png"), b"new", overwrite=True)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert (tmp_path / "out" / "a.png").read_bytes() == b"new"


def test_a_full_disk_names_the_place_and_leaves_nothing(place, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.png: can't be written: no space left on device; free") as error:
        storage.write(place("a.png"), b"data")
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_that_share_a_place_never_show_half_a_file(tmp_path):
    """Each writes its own bytes again and again; whoever looks sees one of the two, whole."""
    target, contents = str(tmp_path / "a.png"), [b"1" * 3_000_000, b"2" * 3_000_000]
    storage.write(target, contents[0])
    stop = threading.Event()

    def job(data):
        while not stop.is_set():
            storage.write(target, data, overwrite=True)

    threads = [threading.Thread(target=job, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    try:
        assert all(Path(target).read_bytes() in contents for _ in range(100))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_other_storage_is_written_under_another_name_first(monkeypatch):
    fsspec, pytest_memory = pytest.importorskip("fsspec"), "memory://bucket/in/a.png"
    memory = fsspec.filesystem("memory")
    seen, upload = [], storage._upload
    monkeypatch.setattr(storage, "_upload", lambda f, path, data: (seen.append(path), upload(f, path, data)))
    storage.write(pytest_memory, b"one")
    with pytest.raises(OutputExistsError):
        storage.write(pytest_memory, b"two")
    storage.write(pytest_memory, b"three", overwrite=True)
    assert storage.read(pytest_memory) == b"three"
    assert len(set(seen)) == 2
    assert all(path.rpartition("/")[2].startswith(".kbnet-") for path in seen)

    def broken(filesystem, path, data):
        upload(filesystem, path, data[:2])
        raise OSError("connection reset")

    monkeypatch.setattr(storage, "_upload", broken)
    with pytest.raises(OSError, match="connection reset"):
        storage.write(pytest_memory, b"four", overwrite=True)
    assert storage.read(pytest_memory) == b"three"
    assert [name.rpartition("/")[2] for name in memory.ls("/bucket/in", detail=False)] == ["a.png"]


def test_a_missing_file_is_said_to_be_missing_and_not_tried_again(place):
    with pytest.raises(UnreadableImageError, match=r"nowhere\.png: can't be read"):
        storage.read(place("nowhere.png"))


def test_names_below_a_folder(place, tmp_path):
    for name in NAMES:
        storage.write(place(name), b"12345")
    if storage.is_url(place("")):
        assert storage.files_below(place("")) == dict.fromkeys(NAMES, 5)
        assert storage.files_below(place("deep/er/b.png")) == {"b.png": 5}
        assert storage.is_file(place("a.png"))
        assert not storage.is_file(place("deep"))
        with pytest.raises(InvalidInputError, match="found nothing"):
            storage.files_below(place("nowhere"))
    for name in NAMES:
        assert storage.read(storage.join(place(""), name)) == b"12345"


def test_settings_stay_behind_a_joined_url():
    assert storage.join("s3://bucket/in?region=eu-central-1", "a/b.png") == "s3://bucket/in/a/b.png?region=eu-central-1"
    assert storage.join("s3://bucket", "a.png") == "s3://bucket/a.png"
    assert storage.join("folder/", "a.png") == "folder/a.png"


def test_what_is_a_url():
    assert storage.is_url("s3://bucket")
    assert storage.is_url("gs://bucket/a b?c.png")
    for path in ("a.png", "/a/b.png", "C:\\a.png", "a//b.png", "./s3:/x", ""):
        assert not storage.is_url(path), path


def test_an_unknown_kind_of_url_is_refused_in_one_line():
    pytest.importorskip("pyarrow")
    with pytest.raises(KBNetError) as refused:
        storage.read("nonsense://bucket/a.png")
    assert "nonsense" in str(refused.value)
    assert "\n" not in str(refused.value)
