"""Files by path and URL: the same bytes, literal names, whole or not at all."""

import pytest

from kbnet.distributed import storage
from kbnet.errors import InvalidInputError, KBNetError, UnreadableImageError

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


def test_a_file_is_replaced_in_one_step_and_leaves_nothing_beside_it(place, tmp_path):
    storage.write(place("a.png"), b"old")
    storage.write(place("a.png"), b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"new")]


def test_what_a_killed_writer_left_is_used_up_by_the_next_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            storage.write(str(tmp_path / "a.png"), b"half done")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".kbnet-")
    storage.write(str(tmp_path / "a.png"), b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_missing_file_is_said_to_be_missing_and_not_tried_again(place):
    with pytest.raises(UnreadableImageError, match=r"nowhere\.png: cannot be read"):
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
