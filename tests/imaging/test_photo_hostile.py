import gc
import logging
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import picture_files as files
import pytest
import pyvips
from PIL import Image

from kbnet.errors import ImageError, ImageTooLargeError, InvalidInputError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import Photo, probe, read_photo, write_photo
from kbnet.imaging._vips import reason

PHOTO = files.pattern(160, 240)
FRAMES = [Image.fromarray(np.roll(PHOTO, shift, axis=0)) for shift in (0, 9, 18)]
PLAIN_TIFF = files.tiff(240, 160, PHOTO.tobytes())
_avif = files.pillow(PHOTO, "AVIF")
_size_at = _avif.index(b"ispe") + 8
WIDE_AVIF = _avif[:_size_at] + b"\x41" + _avif[_size_at + 1 :]


def one_line(error):
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


def animation(format):
    return files.pillow(FRAMES[0], format, save_all=True, append_images=FRAMES[1:])


def refused(data, kind, *words):
    with pytest.raises(kind) as error:
        read_photo(data)
    message = one_line(error)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ("the file is empty",)),
        (b"Dear Sir,\nthis is a letter.\n", ("not an image (it contains text)", "expected PNG")),
        (b"\0\1\2\3" * 40, ("unknown format",)),
        (files.PNG_MAGIC, ("the PNG file is truncated",)),
        (b"\xff\xd8\xff", ("the JPEG file is truncated",)),
        (b"II*\0", ("the TIFF file is truncated",)),
        (b"RIFF\0\0\0\0WEBP", ("the WebP file is truncated",)),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", ("the AVIF file is truncated",)),
        (files.PNG_MAGIC + files.chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)), ("PNG file",)),
        (files.png(2**31 - 1, 2**31 - 1, b""), ("PNG file",)),
        (files.png(0, 10, b""), ("PNG file",)),
        (WIDE_AVIF, ("the AVIF file", "invalid size")),
        (files.tiff(4, 2**31 - 1, bytes(48)), ("the TIFF file", "invalid size")),
        (files.png(100, 100, b"\0" * 50), ("PNG file",)),
    ],
)
def test_what_is_no_whole_image_is_unreadable(data, words):
    refused(data, UnreadableImageError, *words)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "PROGRESSIVE", "TIFF", "DEFLATE", "WEBP", "AVIF"])
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_cut_anywhere_fails_and_is_never_gray(format, kept):
    if format == "PROGRESSIVE":
        data = files.pillow(PHOTO, "JPEG", progressive=True)
    elif format == "DEFLATE":
        data = write_photo(Photo(PHOTO), None, format="tiff")
    else:
        # Pillow puts the TIFF directory first, so that a cut takes pixels only: the case libvips lets pass by default
        data = files.pillow(PHOTO, format)
    refused(data[: int(len(data) * kept)], UnreadableImageError, "the image data: ", "get it again from its source")


@pytest.mark.parametrize("format", ["PNG", "AVIF"])
def test_flipped_bytes_are_found_where_the_format_can_tell(format):
    data = files.pillow(PHOTO, format)
    middle = len(data) // 2
    data = data[:middle] + bytes(b ^ 0xFF for b in data[middle : middle + 4]) + data[middle + 4 :]
    refused(data, UnreadableImageError, "damaged")


def test_irregular_jpeg_is_read_with_a_note():
    data = files.pillow(PHOTO, "JPEG")
    scan = data.index(b"\xff\xda")
    photo = read_photo(data[:scan] + b"\0\0\0" + data[scan:])
    assert "irregular data" in photo.notes[-1]
    np.testing.assert_array_equal(photo.pixels, read_photo(data).pixels)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF", "GIF"])
def test_animations_are_refused(format):
    refused(animation(format), UnsupportedImageError, "animat", "PNG")


def test_several_pages_are_refused():
    refused(animation("TIFF"), UnsupportedImageError, "3 pages", "each page")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (files.pillow(PHOTO, "PPM"), ("PPM", "convert it")),
        (b"%PDF-1.7\n", ("PDF",)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ("SVG",)),
        (struct.pack(">I", 24) + b"ftypisom\0\0\0\0mp42isom", ("video",)),
        (struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom", ("camera raw",)),
        (files.tiff(4, 4, bytes(48), more=[(254, 4, 1)]), ("camera raw",)),
        (files.tiff(4, 4, bytes(48), more=[(50706, 1, 1)]), ("camera raw",)),
        (files.tiff(4, 4, struct.pack("<48f", *[200.0] * 48), bits=(32,) * 3, more=[(339, 3, 3)]), ("median of 200",)),
        (files.tiff(4, 4, struct.pack("<48f", *[float("nan")] * 48), bits=(32,) * 3, more=[(339, 3, 3)]), ("NaN",)),
        (files.tiff(4, 4, bytes(192), bits=(32,) * 3), ("32-bit integer",)),
        (files.tiff(4, 4, bytes(96), bits=(8,) * 6), ("6 channels",)),
        (files.tiff(4, 4, bytes(48), photometric=8), ("Lab",)),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + b"colrnclx\0\x09\0\x10\0\x09\x80", ("HDR",)),
    ],
)
def test_other_kinds_are_refused_by_name(data, words):
    refused(data, UnsupportedImageError, *words)


def test_too_many_pixels_are_refused_before_decoding():
    # 900 million pixels behind a kilobyte: a decompression bomb
    bomb = files.png(30000, 30000, b"\0" * 1000)
    tracemalloc.start()
    refused(bomb, ImageTooLargeError, "30000 x 30000", "900.0 megapixels", "limit of 250", "--max-pixels 900000000")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert probe(bomb).width == 30000
    for format in ("PNG", "JPEG", "TIFF", "WEBP", "AVIF"):
        data = files.pillow(PHOTO, format)
        assert read_photo(data, max_pixels=240 * 160).width == 240
        with pytest.raises(ImageTooLargeError):
            read_photo(data, max_pixels=240 * 160 - 1)
    with pytest.raises(InvalidInputError, match="max_pixels"):
        read_photo(data, max_pixels=0)


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_ends_in_a_photo_or_one_line(seed):
    rng = np.random.default_rng(seed)
    format = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "EXIF")[seed % 6]
    data = files.pillow(PHOTO, "JPEG", exif=b"Exif\0\0" + files.exif(5, thumbnail=True)) if format == "EXIF" else None
    data = bytearray(data or (PLAIN_TIFF if format == "TIFF" else files.pillow(PHOTO, format)))
    reach = len(data) if seed % 2 else 120
    for at in rng.integers(0, reach, 4):
        data[at] = rng.integers(256)
    try:
        photo = read_photo(bytes(data), max_pixels=1_000_000)
        write_photo(photo, None)
    except ImageError as error:
        message = str(error)
    else:
        message = "read"
    assert message.isprintable()


def test_names_that_break_lines_or_encodings_are_escaped(tmp_path):
    for name in ("two\nlines.png", "bell\x07.png", b"latin-\xe9.png".decode(errors="surrogateescape"), "null\0.png"):
        with pytest.raises(UnreadableImageError) as error:
            read_photo(tmp_path / name)
        one_line(error).encode()


def test_missing_files_folders_and_devices_say_so(tmp_path):
    for path, words in (
        (tmp_path / "none.png", "no such file or directory"),
        (tmp_path, "got a folder"),
        (Path("/dev/null"), "got a device"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(UnreadableImageError, match=words) as error:
            read_photo(path)
        assert str(path) in one_line(error)


def test_failures_let_go_of_the_file(tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to count open files")
    path = tmp_path / "cut.jpg"
    path.write_bytes(files.pillow(PHOTO, "JPEG")[:1000])
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(UnreadableImageError):
                read_photo(path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()


def test_nothing_reaches_stderr_even_with_logging_on(tmp_path):
    (tmp_path / "cut.png").write_bytes(files.pillow(PHOTO, "PNG")[:3000])
    # PNG names a profile in Latin-1, and libvips quotes the name when it warns about what is inside
    profile = files.chunk(b"iCCP", b"Profil\x94\0\0" + zlib.compress(files.SRGB[:200] + b"\xff" * 300))
    (tmp_path / "cut.latin.png").write_bytes(files.png(4, 4, (b"\0" + bytes(12)) * 4, before=profile))
    (tmp_path / "cut.tif").write_bytes(PLAIN_TIFF[:3000] + PLAIN_TIFF[-200:])
    code = (
        "import logging, pathlib\n"
        "logging.basicConfig(level=logging.WARNING)\n"
        "from kbnet.imaging import read_photo\n"
        "for path in pathlib.Path().glob('cut.*'):\n"
        "    try: read_photo(path)\n"
        "    except ValueError: pass\n"
        "    except Exception as error: assert 'cut' in str(error)\n"
    )
    done = files.run_python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_error_texts_quoting_bytes_of_the_file_become_one_line():
    raw = b"earlier trouble\npng: profile 'Profil\x94' bad\nsource: bad seek to 12\n"
    with pytest.raises(UnicodeDecodeError) as error:
        raw.decode()
    assert reason(error.value) == "png: profile 'Profil\N{REPLACEMENT CHARACTER}' bad"
    assert reason(pyvips.Error("unable to call x", "a\nload error\n")) == "a"
    assert len(reason(pyvips.Error("unable to call x", "x" * 999))) == 120


def test_libvips_holds_no_memory_and_its_logger_is_left_to_the_program():
    for _ in range(3):
        read_photo(files.pillow(PHOTO, "PNG"))
    assert pyvips.cache_get_max() == 0
    assert pyvips.cache_get_size() == 0
    assert logging.getLogger("pyvips").level == logging.CRITICAL
