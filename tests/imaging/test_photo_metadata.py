import io
from fractions import Fraction

import numpy as np
import picture_files as files
import pytest
import pyvips
from PIL import Image, ImageOps

from kbnet.imaging import FORMATS, Block, Metadata, Photo, Resolution, plan_output, probe, read_photo, write_photo
from kbnet.imaging import exif as exif_blocks
from kbnet.imaging import xmp as xmp_packets
from kbnet.imaging.icc import icc_name

# Pillow's name for the format, and how it takes an EXIF block
CARRIERS = {"JPEG": b"Exif\0\0", "PNG": b"", "WEBP": b"Exif\0\0"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", CARRIERS)
def test_every_orientation_comes_out_upright_with_the_tag_reset(orientation, format):
    data = files.pillow(files.pattern(), format, exif=CARRIERS[format] + files.exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    got = read_photo(data)
    tolerance = 0 if format == "PNG" else 4
    assert got.pixels.shape == expected.shape
    assert np.abs(got.pixels.astype(int) - expected).max() <= tolerance
    assert exif_blocks.orientation_of(got.metadata.first("exif")) == 1
    assert (f"rotated upright (orientation {orientation})" in got.notes) == (orientation != 1)
    info = probe(data)
    assert (info.orientation, info.height, info.width) == (orientation, *expected.shape[:2])
    for target in FORMATS:
        written = Image.open(io.BytesIO(write_photo(got, None, format=target)))
        assert written.getexif().get(0x0112, 1) == 1
        assert written.getexif()[0x010F] == "Maker"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_and_alpha_turn_together(orientation):
    array = files.pattern(channels=4)
    data = files.tiff(60, 40, array.tobytes(), bits=(8,) * 4, more=[(274, 3, orientation), (338, 3, 2)])
    plain = files.tiff(60, 40, array.tobytes(), bits=(8,) * 4, more=[(338, 3, 2)])
    got, stored = read_photo(data), read_photo(plain)
    assert np.array_equal(stored.pixels, array[..., :3])
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    turned = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(got.pixels, turned[..., :3])
    np.testing.assert_array_equal(got.alpha, turned[..., 3])


def test_avif_turns_by_its_own_boxes_once():
    data = files.pillow(files.pattern(), "AVIF", exif=b"Exif\0\0" + files.exif(6))
    got = read_photo(data)
    assert got.pixels.shape == (60, 40, 3)
    assert read_photo(write_photo(got, None)).pixels.shape == (60, 40, 3)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_profile_xmp_and_resolution_are_kept(format, dtype):
    packet = b"<x:xmpmeta>some</x:xmpmeta>"
    resolution = Resolution(Fraction(300), Fraction(300), "inch")
    metadata = Metadata((Block("xmp", packet),), resolution)
    for pixels, profile in (
        (files.pattern(dtype=dtype), files.SRGB),
        (files.pattern(channels=1, dtype=dtype)[..., 0], files.GRAY),
    ):
        photo = Photo(pixels, icc_profile=profile, metadata=metadata)
        _, notes = plan_output(photo, format)
        got = read_photo(write_photo(photo, None, format=format))
        colour_only = pixels.ndim == 2 and format in ("webp", "avif")
        assert got.icc_profile == (None if colour_only else profile)
        assert any("profile" in note for note in notes) == colour_only
        assert got.metadata.first("xmp") == packet
        if format in ("webp", "avif", "heic"):
            assert any("the resolution (300 dpi) is not kept" in note for note in notes)
            assert got.metadata.resolution is None
        else:
            assert [round(float(side)) for side in got.metadata.resolution.per("inch")] == [300, 300]


def test_a_profile_of_other_channels_is_dropped_with_a_note():
    _, notes = plan_output(Photo(files.pattern(), icc_profile=files.GRAY), "png")
    assert notes == ("the colour profile does not match the image's channels and is not kept",)
    assert write_photo(Photo(files.pattern(), icc_profile=b"garbage"), None)


def test_thumbnails_of_the_unrestored_picture_are_dropped():
    data = files.pillow(files.pattern(), "JPEG", exif=b"Exif\0\0" + files.exif(6, thumbnail=True))
    assert pyvips.Image.jpegload_buffer(data).get_typeof("jpeg-thumbnail-data")
    for format in ("jpeg", "png"):
        written = pyvips.Image.new_from_buffer(write_photo(read_photo(data), None, format=format), "")
        assert not written.get_typeof("jpeg-thumbnail-data")


def test_exif_too_long_for_jpeg_is_noted():
    block = files.exif(1) + bytes(70000)
    planned, notes = plan_output(Photo(files.pattern(), metadata=Metadata((Block("exif", block),))), "jpeg")
    assert planned.metadata.first("exif") is None
    assert notes == ("EXIF is not kept: JPEG is limited to 64 kB of it",)


def test_xmp_orientation_is_reset_in_both_spellings():
    assert xmp_packets.upright(b'<a tiff:Orientation="6"/>') == b'<a tiff:Orientation="1"/>'
    element = b"<tiff:Orientation>8</tiff:Orientation>"
    assert xmp_packets.upright(element) == b"<tiff:Orientation>1</tiff:Orientation>"


@pytest.mark.parametrize("block", [b"", b"garbage", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_is_dropped_not_believed(block):
    assert exif_blocks.upright(block) is None
    assert exif_blocks.orientation_of(block) == 1
    data = files.pillow(files.pattern(), "JPEG", exif=b"Exif\0\0" + block)
    photo = read_photo(data)
    assert photo.notes == ("the EXIF block is damaged and is not kept",)
    assert read_photo(write_photo(photo, None)).pixels.shape == (40, 60, 3)


def test_profile_names_of_both_versions():
    assert icc_name(files.SRGB) == "sRGB built-in"
    text = b"Old profile\0"
    old = bytes(128) + (1).to_bytes(4, "big") + b"desc" + (144).to_bytes(4, "big") + (12 + len(text)).to_bytes(4, "big")
    old += b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text
    assert icc_name(old) == "Old profile"
    assert icc_name(b"garbage") == icc_name(bytes(200)) == "unnamed"
