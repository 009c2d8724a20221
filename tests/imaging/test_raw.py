"""Camera raw files, as synthetic DNGs: developed, turned, their colours and metadata, and what isn't one."""

import io
from dataclasses import replace

import metadata_files as made
import numpy as np
import pytest
import tifffile
from raw_files import NEUTRAL, TO_REC_2020, dng

from kbnet.errors import InvalidInputError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import probe, raw, read_photo, sniff, write_photo, xmp
from kbnet.imaging.containers import collect
from kbnet.imaging.isolated import Isolation
from kbnet.imaging.linear import decode
from kbnet.inference.jobs import plan_jobs, run_jobs

XYZ_TO_SRGB = np.array([[3.2404542, -1.5371385, -0.4985314], [-0.969266, 1.8760108, 0.041556],
                        [0.0556434, -0.2040259, 1.0572252]])  # fmt: skip


def scene(height=48, width=64):
    """Flat colours, one of them outside sRGB."""
    image = np.full((height, width, 3), (0.2, 0.4, 0.1))
    image[:16, :20] = (0.6, 0.05, 0.05)
    image[:, 40:] = (0.18, 0.18, 0.18)
    return image


def linear(photo):
    return linear_of(photo.pixels)


def linear_of(pixels):
    return decode(pixels.astype(np.float32) / 65535)


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


@pytest.mark.parametrize("pattern", [((0, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 2), (0, 1)), ((2, 1), (1, 0))])
def test_the_mosaic_of_a_bayer_sensor(pattern):
    mosaic = raw.mosaic(dng(scene(), pattern=pattern), "a.dng")
    recorded = scene() * np.array(NEUTRAL)
    for index, channel in enumerate((0, 1, 1, 2)):
        assert mosaic.planes()[4:20, 12:18, index] == pytest.approx(recorded[30, 24, channel], abs=1e-3)
    assert mosaic.told is None


def test_a_mosaic_developed_in_place_of_the_own_one():
    data = dng(scene(), orientation=6)
    mosaic = raw.mosaic(data, "a.dng")
    same = raw.develop(data, "a.dng", mosaic)
    assert np.abs(linear_of(same) - linear_of(raw.develop(data, "a.dng"))).max() < 3e-4  # rounded at random
    darker = raw.develop(data, "a.dng", replace(mosaic, signal=mosaic.signal / 2))
    assert linear_of(darker)[6, 6] == pytest.approx(linear_of(same)[6, 6] / 2, rel=0.02)


def test_the_noise_that_a_dng_tells():
    mosaic = raw.mosaic(dng(scene(), shot=1e-3, read=2e-6, told=True), "a.dng")
    assert (mosaic.told.shot, mosaic.told.read) == pytest.approx((1e-3, 2e-6))


def test_a_linear_dng_has_no_mosaic():
    assert raw.mosaic(written_as_dng(read_photo(dng(scene()))), "a.dng") is None


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


def probe_extras(path):
    with path.open("rb") as file:
        return collect(file, "raw").extras


def test_settings_for_developing_are_not_kept():
    settings = b' xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Exposure2012="+1.0"'
    cut = xmp.without_development(made.PACKET % (b"main", settings))
    assert b"Exposure2012" not in cut
    assert b'dc:source="main"' in cut


def test_a_photo_in_the_same_colours_is_no_raw_file():
    with pytest.raises(UnsupportedImageError, match="only camera raw files"):
        written_as_dng(read_photo(write_photo(read_photo(dng(scene())), None)))


def written_as_dng(photo, **options):
    return write_photo(photo, None, format="dng", **options)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_linear_dng_is_opened_by_raw_converters_with_the_same_colours(orientation):
    photo = read_photo(dng(scene(), orientation=orientation))
    data = written_as_dng(photo)
    import rawpy

    with rawpy.imread(io.BytesIO(data)) as opened:
        assert opened.white_level == 65535
        assert opened.camera_whitebalance[:3] == pytest.approx([1, 1, 1], abs=1e-3)
        samples = {
            space: opened.postprocess(
                use_camera_wb=True, output_color=space, output_bps=16, gamma=(1, 1), no_auto_bright=True
            )
            for space in (rawpy.ColorSpace.Rec2020, rawpy.ColorSpace.sRGB)
        }
    assert samples[rawpy.ColorSpace.Rec2020] / 65535 == pytest.approx(linear(photo), abs=2e-3)
    # Whether the matrix is used shows in another space only.
    wanted = linear(photo) @ np.linalg.inv(TO_REC_2020).T @ XYZ_TO_SRGB.T
    assert samples[rawpy.ColorSpace.sRGB] / 65535 == pytest.approx(np.clip(wanted, 0, 1), abs=3e-3)
    again = read_photo(data)
    assert again.pixels.shape == photo.pixels.shape
    assert linear(again) == pytest.approx(linear(photo), abs=2e-3)


def test_a_linear_dng_has_the_tags_of_the_specification_and_the_metadata_of_the_raw_file():
    page = tifffile.TiffFile(io.BytesIO(written_as_dng(read_photo(dng(scene()))))).pages[0]
    tags = {tag.code: tag.value for tag in page.tags}
    assert (page.photometric, page.compression, page.bitspersample) == (34892, 1, 16)
    assert (tags[271], tags[272], tags[50708]) == ("Kbnet", "Synthetic", "Kbnet Synthetic linear Rec. 2020")
    assert tuple(tags[50706]) == (1, 4, 0, 0)
    assert tags[50778] == 21
    assert 34675 not in tags  # the colours are those of ColorMatrix1
    assert np.array_equal(page.asarray()[8, 10], np.rint(linear(read_photo(dng(scene())))[8, 10] * 65535))


def test_only_camera_raw_files_become_dngs(tmp_path):
    from kbnet.imaging import Photo

    with pytest.raises(UnsupportedImageError, match="only camera raw files can be written as DNG"):
        written_as_dng(Photo(np.zeros((4, 4, 3), np.uint16)))
    photo = read_photo(dng(scene()))
    with pytest.raises(InvalidInputError, match="bit depth of 16"):
        written_as_dng(photo, bit_depth=8)
    with pytest.raises(InvalidInputError, match="the file name says dng, but the format is tiff"):
        write_photo(photo, tmp_path / "a.dng", format="tif")
    assert list(tmp_path.iterdir()) == []
    assert tifffile.TiffFile(io.BytesIO(write_photo(photo, None))).pages[0].photometric == 2


def test_a_folder_becomes_dngs_and_a_raw_file_is_never_replaced_unasked(tmp_path):
    source = tmp_path / "a.dng"
    source.write_bytes(dng(scene()))
    (tmp_path / "b.png").write_bytes(write_photo(read_photo(dng(scene())), None, format="png", bit_depth=8))
    jobs = plan_jobs([tmp_path], tmp_path / "out", format="dng")
    results = list(run_jobs(jobs, lambda pixels, progress: pixels, format="dng"))
    assert [(result.job.output.name, result.ok) for result in results] == [("a.dng", True), ("b.dng", False)]
    assert "only camera raw files" in results[1].error
    assert read_photo(tmp_path / "out" / "a.dng").pixels.shape == (48, 64, 3)

    other = tmp_path / "b.cr3"
    other.write_bytes(b"\0\0\0\x18ftypcrx " + bytes(400))
    assert probe_extras(other) == ["the camera's raw data"]
    before = source.read_bytes()
    jobs = plan_jobs([source], format="dng", overwrite=True)
    (result,) = run_jobs(jobs, lambda pixels, progress: pixels, format="dng", overwrite=True)
    assert "the camera's raw data would be lost with the original" in result.error
    assert source.read_bytes() == before
