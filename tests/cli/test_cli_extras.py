"""--drop-extras, without which --overwrite leaves files alone that hold more than one picture."""

import pytest
from cli_files import picture

SOUND = b"RIFF\0\0\0\0WAVEfmt " + bytes(5000)


@pytest.fixture
def spoken(tmp_path, monkeypatch):
    """A photo with a sound, named a.jpg, in the working folder."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(SOUND)
    return tmp_path / "a.jpg"


def test_a_photo_with_a_sound_is_replaced_only_when_asked(restore, spoken):
    done = restore("a.jpg", "-o", "a.jpg", "--overwrite")
    assert done.code == 1
    assert "a.jpg: a sound recording would be lost with the original" in done.err
    assert "--drop-extras" in done.err
    assert SOUND in spoken.read_bytes()
    done = restore("a.jpg", "-o", "a.jpg", "--overwrite", "--drop-extras")
    assert done.code == 0
    assert "note: a sound recording is not kept" in done.err
    assert SOUND not in spoken.read_bytes()


def test_beside_it_a_note_is_enough(restore, spoken):
    done = restore("a.jpg", "-o", "b.jpg")
    assert done.code == 0
    assert "note: a sound recording is not kept" in done.err
