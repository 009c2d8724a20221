import dataclasses
import doctest
import io
import logging

import numpy as np
import picture_files as files
import pytest
import pyvips
from PIL import Image

import kbnet.imaging as imaging
from kbnet.errors import InvalidInputError, OutputError, UnsupportedImageError
from kbnet.imaging import Metadata, Photo, photo, plan_output, probe, read_photo, to_depth, write_photo

# Largest error of a sample, of 255, that each coding may make on the smooth test picture; 0 is exact.
TOLERANCE = {"png": 0, "tiff": 0, "jpeg": 8, "webp": 0, "avif": 12, "heic": 10}
HOLDS_16 = ("png", "tiff", "avif", "heic")


def make(layout, dtype, format="png", **options):
    array = files.pattern(channels=files.LAYOUTS[layout], dtype=dtype)
    pixels = array[..., 0] if "gray" in layout else array[..., :3]
    alpha = array[..., -1] if "alpha" in layout else None
    return Photo(pixels, alpha, format=format, **options)


@pytest.mark.parametrize("format", imaging.FORMATS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", files.LAYOUTS)
def test_every_format_depth_and_layout_comes_back(format, dtype, layout):
    before = make(layout, dtype)
    planned, notes = plan_output(before, format)
    after = read_photo(write_photo(before, None, format=format))

    assert after.format == format
    assert after.bit_depth == (before.bit_depth if format in HOLDS_16 else 8)
    assert (after.alpha is None) == (before.alpha is None or format == "jpeg")
    assert after.is_gray == (before.is_gray and format not in ("webp", "avif"))
    step = TOLERANCE[format] * (257 if after.bit_depth == 16 else 1)
    pairs = [(planned.pixels, after.pixels), (planned.alpha, after.alpha)]
    for expected, got in pairs:
        if expected is not None:
            assert got.dtype == expected.dtype
            assert np.abs(got.astype(int) - expected.astype(int)).max() <= step
    if before.bit_depth != after.bit_depth:
        assert any("rounded from 16" in note for note in notes)
    assert plan_output(planned, format)[1] == ()


@pytest.mark.parametrize("array", [files.pattern(channels=n, dtype=np.uint16) for n in (1, 2, 3, 4)])
def test_16_bit_png_is_read_exactly(array):
    got = read_photo(files.png16(array))
    channels = 1 if array.shape[2] < 3 else 3
    np.testing.assert_array_equal(got.pixels.reshape(*array.shape[:2], channels), array[..., :channels])
    if got.alpha is not None:
        np.testing.assert_array_equal(got.alpha, array[..., channels])
    assert (got.bit_depth, got.sample_bits, got.lossless) == (16, 16, True)


@pytest.mark.parametrize("format", imaging.FORMATS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1)])
def test_thin_pictures_keep_their_shape(format, height, width):
    photo = Photo(np.full((height, width, 3), 200, np.uint8))
    if format == "heic" and max(height, width) > 1000:  # x265 has no such shapes
        with pytest.raises(OutputError, match="the heic encoder failed"):
            write_photo(photo, None, format=format)
        return
    data = write_photo(photo, None, format=format)
    assert read_photo(data).pixels.shape == (height, width, 3)
    info = probe(data)
    assert (info.height, info.width) == (height, width)


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_keeps_its_depth_and_full_range(bits):
    pixels = np.repeat(np.array([[0, 65535]], np.uint16), 32, axis=1).repeat(32, axis=0)
    first = write_photo(Photo(pixels, sample_bits=bits), None, format="avif", quality=100)
    again = read_photo(first)
    assert again.sample_bits == bits
    assert again.pixels.min() < 300
    assert again.pixels.max() == 65535
    assert read_photo(write_photo(again, None)).sample_bits == bits


def test_webp_stays_lossless_unless_quality_is_asked_for():
    noise = Photo(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exact = read_photo(write_photo(noise, None, format="webp"))
    assert exact.lossless
    np.testing.assert_array_equal(exact.pixels, noise.pixels)
    lossy = read_photo(write_photo(noise, None, format="webp", quality=90))
    assert not lossy.lossless
    assert not read_photo(write_photo(lossy, None)).lossless


def test_jpeg_keeps_full_chroma_and_quality_matters():
    before = make("rgb", np.uint8)
    data = write_photo(before, None, format="jpeg")
    assert Image.open(io.BytesIO(data)).layer[0][1:3] == (1, 1)
    assert len(write_photo(before, None, format="jpeg", quality=30)) < len(data)


def test_depth_changes_round_to_nearest_and_keep_white():
    wide = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(to_depth(wide, 8), np.rint(wide / 257).astype(np.uint8))
    narrow = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_depth(to_depth(narrow, 16), 8), narrow)
    assert to_depth(narrow, 16).max() == 65535
    asked = read_photo(write_photo(make("rgb-alpha", np.uint16), None, bit_depth=8))
    assert (asked.bit_depth, asked.alpha.dtype) == (8, np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_is_laid_over_white_for_jpeg(dtype):
    top = np.iinfo(dtype).max
    pixels = np.array([[0, 0, top // 2, top]], dtype)
    alpha = np.array([[0, top, top // 2, 0]], dtype)
    flat = imaging.over_white(pixels, alpha)
    exact = top - (top - pixels.astype(float)) * (alpha / top)
    np.testing.assert_array_equal(flat, np.rint(exact))
    planned, notes = plan_output(Photo(pixels, alpha), "jpeg", bit_depth=8)
    assert planned.alpha is None
    assert notes[0] == "JPEG has no transparency: composited over white"
    opaque = Photo(pixels, np.full_like(alpha, top))
    assert plan_output(opaque, "jpeg", bit_depth=8)[1] == ()


def test_losses_are_logged_when_writing(caplog):
    with caplog.at_level(logging.INFO, logger="kbnet.imaging"):
        write_photo(make("rgb", np.uint16), None, format="webp")
    assert caplog.messages == ["output: WebP is limited to 8 bits per sample: rounded from 16"]


def test_palette_pictures_become_rgb():
    image = Image.fromarray(files.pattern()).quantize(16)
    plain = read_photo(files.pillow(image, "PNG"))
    np.testing.assert_array_equal(plain.pixels, np.asarray(image.convert("RGB")))
    assert plain.notes == ("palette expanded to RGB",)
    clear = read_photo(files.pillow(image, "PNG", transparency=3))
    np.testing.assert_array_equal(clear.alpha == 0, np.asarray(image) == 3)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_one_bit_pictures_become_gray(format):
    image = Image.fromarray(files.pattern()[..., 0]).convert("1")
    got = read_photo(files.pillow(image, format))
    np.testing.assert_array_equal(got.pixels, np.asarray(image) * np.uint8(255))
    assert (got.sample_bits, got.notes) == (1, ("1-bit samples expanded to 8-bit",))
    again = read_photo(write_photo(got, None))
    np.testing.assert_array_equal(again.pixels, got.pixels)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_becomes_srgb(format):
    image = Image.fromarray(np.full((16, 16, 3), (200, 40, 40), np.uint8)).convert("CMYK")
    got = read_photo(files.pillow(image, format))
    red, green, blue = got.pixels.reshape(-1, 3).mean(axis=0)
    assert red > 120 > max(green, blue)
    assert any("CMYK converted to sRGB with a generic profile" in note for note in got.notes)
    profile = pyvips.Operation.call("profile_load", "cmyk")
    assert probe(files.pillow(image, format)).colour == "CMYK"
    own = read_photo(files.pillow(image, format, icc_profile=profile))
    assert any("with its profile" in note for note in own.notes)
    assert own.icc_profile[16:20] == b"RGB "
    broken = read_photo(files.pillow(image, format, icc_profile=b"no profile at all" * 20))
    assert broken.pixels.shape == (16, 16, 3)


def test_premultiplied_tiff_is_divided_by_its_alpha():
    rgba = np.tile(np.array([100, 50, 25, 128], np.uint8), (4, 4, 1))
    straight = read_photo(files.tiff(4, 4, rgba.tobytes(), bits=(8,) * 4, more=[(338, 3, 2)]))
    assert straight.pixels[0, 0].tolist() == [100, 50, 25]
    divided = read_photo(files.tiff(4, 4, rgba.tobytes(), bits=(8,) * 4, more=[(338, 3, 1)]))
    assert np.abs(divided.pixels[0, 0].astype(int) - [199, 100, 50]).max() <= 1


def test_probe_reads_headers_only():
    cut = files.pillow(files.pattern(), "JPEG", icc_profile=files.SRGB, exif=b"Exif\0\0" + files.exif(6))
    info = probe(cut[: len(cut) * 9 // 10])
    assert info == imaging.ImageInfo("jpeg", 40, 60, "RGB", 8, False, 6, "sRGB built-in")
    assert probe(files.png16(files.pattern(channels=2, dtype=np.uint16))).has_alpha


def test_a_misleading_name_is_noted(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(files.pillow(files.pattern(), "JPEG"))
    assert read_photo(path).notes == ("the file name says png, but the content is jpeg; read as jpeg",)


def test_paths_and_bytes_read_alike(tmp_path):
    for format in imaging.FORMATS:
        data = write_photo(make("rgb", np.uint8), None, format=format)
        path = tmp_path / "odd [page=2],name\n.bin"
        path.write_bytes(data)
        np.testing.assert_array_equal(read_photo(path).pixels, read_photo(data).pixels)


def test_supported_names():
    both_ways = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".hif")
    assert both_ways == imaging.SUPPORTED_SUFFIXES
    assert not any(map(imaging.is_supported, ("notes.txt", "old.bmp", "drawing.gif")))
    assert all(map(imaging.is_readable, ("a.JFIF", "b.bmp", "c.GIF")))
    assert not imaging.is_readable("notes.txt")


@pytest.mark.parametrize("module", [imaging, photo])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_a_photo_checks_itself():
    good = make("rgb-alpha", np.uint8)
    for wrong in (
        {"pixels": np.zeros((4, 4, 4), np.uint8)},
        {"pixels": np.zeros((4, 4), np.float64)},
        {"format": "bmp"},
    ):
        with pytest.raises(InvalidInputError, match="expected"):
            Photo(**({"pixels": np.zeros((4, 4), np.uint8)} | wrong))
    with pytest.raises(InvalidInputError, match="alpha"):
        dataclasses.replace(good, pixels=good.pixels[:-1])
    with pytest.raises(InvalidInputError, match="quality"):
        write_photo(good, None, quality=101)
    with pytest.raises(InvalidInputError, match="bit depth"):
        write_photo(good, None, bit_depth=10)
    with pytest.raises(UnsupportedImageError, match="16383"):
        plan_output(Photo(np.zeros((1, 20000), np.uint8), metadata=Metadata()), "webp")
