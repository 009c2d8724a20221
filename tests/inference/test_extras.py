"""An input that holds more than one picture is not replaced by its own result unless that is asked for."""

import numpy as np
import pytest
import tifffile
from small_networks import kbnet_s, loud, on_cpu

from kbnet.errors import OutputError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.jobs import plan_jobs, run_jobs
from kbnet.inference.streaming import restore_streamed

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000)
SOUND = b"RIFF\0\0\0\0WAVEfmt " + bytes(5000)
LOST = "a sound recording would be lost with the original; choose another output or add --drop-extras"


@pytest.fixture
def spoken(tmp_path):
    """A picture with a sound behind it."""
    path = tmp_path / "a.jpg"
    path.write_bytes(write_photo(Photo(PIXELS), None, format="jpeg") + SOUND)
    return path


@pytest.fixture
def motion(tmp_path):
    """A picture with a video behind it."""
    path = tmp_path / "motion.jpg"
    path.write_bytes(write_photo(Photo(PIXELS), None, format="jpeg") + VIDEO)
    return path


def invert(image, /, *, progress):
    return 255 - image


def outcome(path, output, **options):
    (result,) = run_jobs(plan_jobs([path], output, overwrite=True), invert, overwrite=True, **options)
    return result


def test_a_photo_with_a_sound_is_not_replaced_by_its_result(spoken):
    before = spoken.read_bytes()
    result = outcome(spoken, spoken)
    assert result.error == f"{spoken}: {LOST}"
    assert spoken.read_bytes() == before
    assert [path.name for path in spoken.parent.iterdir()] == ["a.jpg"]


def test_it_is_replaced_when_asked_and_the_loss_is_noted(spoken):
    result = outcome(spoken, spoken, drop_extras=True)
    assert result.ok
    assert result.extras == ("a sound recording",)
    assert "a sound recording is not kept" in result.notes
    assert SOUND not in spoken.read_bytes()


@pytest.mark.parametrize("linked", [False, True])
def test_another_file_is_replaced_without_being_asked(spoken, linked):
    other = spoken.with_name("b.jpg")
    write_photo(Photo(PIXELS), other)
    assert outcome(spoken, other).ok
    if linked:  # another name of the same file
        other.unlink()
        other.symlink_to(spoken)
        assert outcome(spoken, other).error == f"{other}: {LOST}"
    assert SOUND in spoken.read_bytes()


def test_one_such_photo_does_not_stop_the_others(spoken):
    write_photo(Photo(PIXELS), spoken.with_name("b.jpg"))
    jobs = plan_jobs([spoken.parent], spoken.parent, overwrite=True)
    assert [result.ok for result in run_jobs(jobs, invert, overwrite=True)] == [False, True]


def test_a_motion_photo_keeps_its_video_in_a_jpeg_and_is_replaced_by_it(motion):
    before = read_photo(motion).pixels
    result = outcome(motion, motion)
    assert (result.error, result.extras, result.notes) == (None, (), ())
    assert motion.read_bytes().endswith(VIDEO)
    assert np.abs(read_photo(motion).pixels.astype(int) - (255 - before)).mean() < 3


def test_a_motion_photo_by_another_name_is_not_replaced_by_a_format_without_video(motion):
    named = motion.rename(motion.with_name("motion.png"))
    before = named.read_bytes()
    assert "the video of a motion photo would be lost" in outcome(named, named).error
    assert named.read_bytes() == before
    result = outcome(named, named, drop_extras=True)
    assert result.ok
    assert result.extras == ("the video of a motion photo",)
    assert "the video of a motion photo is not kept" in result.notes


def test_layers_of_a_tiff_restored_by_rows(tmp_path):
    path = tmp_path / "a.tif"
    layers = b"Adobe Photoshop Document Data Block\0" + bytes(100)
    extra = [(37724, 7, len(layers), layers, True)]
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None, extratags=extra)
    before = path.read_bytes()
    restorer = on_cpu(loud(kbnet_s, 3), tile=64)
    with pytest.raises(OutputError, match="Photoshop's layers would be lost with the original"):
        restore_streamed(restorer, path, path, overwrite=True)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]
    done = restore_streamed(restorer, path, path, overwrite=True, drop_extras=True)
    assert "Photoshop's layers are not kept" in done.notes
    assert read_photo(path).extras == ()
