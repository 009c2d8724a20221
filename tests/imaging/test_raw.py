"""Camera raw files, as synthetic DNGs: developed, turned, their colours and metadata, and what isn't one."""

import io

import numpy as np
import pytest
import tifffile
from raw_files import dng

from kbnet.errors import UnreadableImageError, UnsupportedImageError
from kbnet.imaging import probe, raw, read_photo, sniff, write_photo
from kbnet.imaging.isolated import Isolation
from kbnet.imaging.linear import decode
from kbnet.inference.jobs import plan_jobs, run_jobs


def scene(height=48, width=64):
    """Flat colours, one of them outside sRGB."""
    image = np.full((height, width, 3), (0.2, 0.4, 0.1))
    image[:16, :20] = (0.6, 0.05, 0.05)
    image[:, 40:] = (0.18, 0.18, 0.18)
    return image


def linear(photo):
    return decode(photo.pixels.astype(np.float32) / 65535)


def test_a_raw_file_is_developed_into_its_own_colours():
    photo = read_photo(dng(scene()))
    assert (photo.format, photo.pixels.dtype, photo.sample_bits) == ("tiff", np.uint16, 16)
    assert photo.icc_profile == raw.profile()
    assert raw.NOTE in photo.notes
    developed = linear(photo)
    for y, x in ((8, 10), (30, 20), (30, 52)):  # away from the edges, which demosaicing blurs
        assert developed[y, x] == pytest.approx(scene()[y, x], abs=2e-3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_picture_comes_out_upright_and_says_so(orientation):
    data = dng(scene(), orientation=orientation)
    photo, info = read_photo(data), probe(data)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    wanted = np.rot90(scene(), turns)
    assert photo.pixels.shape == wanted.shape
    assert (info.height, info.width) == wanted.shape[:2]
    y, x = wanted.shape[0] // 2, wanted.shape[1] // 2
    corner = linear(photo)[6, 6]
    assert corner == pytest.approx(wanted[6, 6], abs=2e-3)
    assert linear(photo)[y, x] == pytest.approx(wanted[y, x], abs=2e-3)
    again = tifffile.TiffFile(io.BytesIO(write_photo(photo, None))).pages[0]
    assert 274 not in again.tags or again.tags[274].value == 1


def test_metadata_is_kept_but_no_instructions_for_developing():
    data = write_photo(read_photo(dng(scene())), None)
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags
    assert (tags[271].value, tags[272].value) == ("Kbnet", "Synthetic")
    assert not {50706, 50721, 50728, 33422} & {tag.code for tag in tags}
    assert read_photo(data).format == "tiff"  # no raw file


def test_raw_files_in_a_folder_become_tiffs(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.dng").write_bytes(dng(scene()))
    jobs = plan_jobs([tmp_path / "photos"], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["a.tif"]
    (result,) = run_jobs(jobs, lambda pixels, progress: pixels)
    assert result.error is None
    photo = read_photo(tmp_path / "out" / "a.tif")
    assert photo.icc_profile == raw.profile()


def test_damage_and_unknown_cameras_are_named():
    data = dng(scene())
    with pytest.raises(UnsupportedImageError, match="the camera raw file is damaged, or its camera is not supported"):
        read_photo(b"FUJIFILMCCD-RAW 0201" + bytes(400))
    for length in (300, 2000):
        with pytest.raises((UnsupportedImageError, UnreadableImageError), match="damaged"):
            read_photo(data[:length])


def test_without_the_extra_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(sniff, "develops_raw", lambda: False)
    with pytest.raises(UnsupportedImageError, match=r"pip install 'kbnet\[raw\]'"):
        read_photo(dng(scene()))


def test_a_child_process_develops_the_same():
    data = dng(scene())
    assert np.array_equal(read_photo(data, isolation=Isolation()).pixels, read_photo(data).pixels)
