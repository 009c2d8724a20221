import io

import numpy as np
import picture_files as files
import pytest
import pyvips
from PIL import Image, ImageOps

from kbnet.imaging import FORMATS, Metadata, Photo, plan_output, probe, read_photo, write_photo
from kbnet.imaging.metadata import exif_orientation, icc_name, upright_exif, upright_xmp

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
    assert exif_orientation(got.metadata.exif) == 1
    assert (f"turned upright (orientation {orientation})" in got.notes) == (orientation != 1)
    info = probe(data)
    assert (info.orientation, info.height, info.width) == (orientation, *expected.shape[:2])
    for target in FORMATS:
        written = Image.open(io.BytesIO(write_photo(got, None, format=target)))
        assert written.getexif().get(0x0112, 1) == 1
        if target != "tiff":
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
    metadata = Metadata(xmp=b"<x:xmpmeta>some</x:xmpmeta>", resolution=(11.811, 11.811))
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
        assert got.metadata.xmp == metadata.xmp
        if format not in ("webp", "avif"):
            assert got.metadata.resolution == pytest.approx(metadata.resolution, rel=0.01)


def test_a_profile_of_other_channels_is_dropped_with_a_note():
    _, notes = plan_output(Photo(files.pattern(), icc_profile=files.GRAY), "png")
    assert notes == ("the colour profile does not fit the picture's channels and is not kept",)
    assert write_photo(Photo(files.pattern(), icc_profile=b"garbage"), None)


def test_iptc_is_kept_within_jpeg_and_noted_otherwise():
    record = b"\x1c\x02\x05\x00\x05title"
    resource = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + len(record).to_bytes(4, "big") + record
    plain = files.pillow(files.pattern(), "JPEG")
    photo = read_photo(plain[:2] + b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource + plain[2:])
    assert photo.metadata.iptc == resource
    assert read_photo(write_photo(photo, None)).metadata.iptc == resource
    assert plan_output(photo, "png")[1] == ("the IPTC caption block is not kept in PNG",)
    in_tiff = read_photo(files.pillow(files.pattern(), "TIFF", tiffinfo={33723: record}))
    assert (in_tiff.metadata.iptc, in_tiff.notes) == (None, ("the IPTC caption block is not kept outside JPEG",))


def test_thumbnails_of_the_unrestored_picture_are_dropped():
    data = files.pillow(files.pattern(), "JPEG", exif=b"Exif\0\0" + files.exif(6, thumbnail=True))
    assert pyvips.Image.jpegload_buffer(data).get_typeof("jpeg-thumbnail-data")
    for format in ("jpeg", "png"):
        written = pyvips.Image.new_from_buffer(write_photo(read_photo(data), None, format=format), "")
        assert not written.get_typeof("jpeg-thumbnail-data")


def test_blocks_too_long_for_jpeg_are_noted():
    photo = Photo(files.pattern(), metadata=Metadata(xmp=b"x" * 70000))
    planned, notes = plan_output(photo, "jpeg")
    assert planned.metadata.xmp is None
    assert notes == ("the XMP block is too long for JPEG and is not kept",)


def test_a_gain_map_is_noted():
    data = files.pillow(files.pattern(), "JPEG", xmp=b'<x:xmpmeta hdrgm:Version="1.0"/>')
    photo = read_photo(data)
    assert photo.metadata.xmp is None
    assert photo.notes == ("the HDR gain map is not kept; the standard picture is",)


def test_xmp_orientation_is_reset_in_both_spellings():
    assert upright_xmp(b'<a tiff:Orientation="6"/>') == b'<a tiff:Orientation="1"/>'
    assert upright_xmp(b"<tiff:Orientation>8</tiff:Orientation>") == b"<tiff:Orientation>1</tiff:Orientation>"


@pytest.mark.parametrize("block", [b"", b"garbage", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_damaged_exif_is_dropped_not_believed(block):
    assert upright_exif(block) is None
    assert exif_orientation(block) == 1
    data = files.pillow(files.pattern(), "JPEG", exif=b"Exif\0\0" + block)
    photo = read_photo(data)
    assert read_photo(write_photo(photo, None)).pixels.shape == (40, 60, 3)


def test_profile_names_of_both_versions():
    assert icc_name(files.SRGB) == "sRGB built-in"
    text = b"Old profile\0"
    old = bytes(128) + (1).to_bytes(4, "big") + b"desc" + (144).to_bytes(4, "big") + (12 + len(text)).to_bytes(4, "big")
    old += b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text
    assert icc_name(old) == "Old profile"
    assert icc_name(b"garbage") == icc_name(bytes(200)) == "unnamed"
