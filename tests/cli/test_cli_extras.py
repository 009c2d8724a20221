"""--drop-extras, without which --overwrite leaves files alone that hold more than one picture."""

import pytest
from cli_files import picture

VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000)


@pytest.fixture
def motion(tmp_path, monkeypatch):
    """A motion photo named a.jpg in the working folder."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(VIDEO)
    return tmp_path / "a.jpg"


def test_a_motion_photo_is_replaced_only_when_asked(restore, motion):
    done = restore("a.jpg", "-o", "a.jpg", "--overwrite")
    assert done.code == 1
    assert "a.jpg: the video of a motion photo would be lost with the original" in done.err
    assert "--drop-extras" in done.err
    assert VIDEO in motion.read_bytes()
    done = restore("a.jpg", "-o", "a.jpg", "--overwrite", "--drop-extras")
    assert done.code == 0
    assert "note: the video of a motion photo is not kept" in done.err
    assert VIDEO not in motion.read_bytes()


def test_beside_it_a_note_is_enough(restore, motion):
    done = restore("a.jpg", "-o", "b.jpg")
    assert done.code == 0
    assert "note: the video of a motion photo is not kept" in done.err
