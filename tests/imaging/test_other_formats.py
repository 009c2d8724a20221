"""BMP and GIF, which are read alone, and whole files whose coding is not decoded."""

import io
import struct

import metadata_files as made
import numpy as np
import picture_files as files
import pytest
from PIL import Image

from kbnet.errors import ImageTooLargeError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import probe, read_photo, write_photo
from kbnet.imaging.photo import READ_SUFFIXES, SUFFIX_FORMATS

PATTERN = files.pattern(40, 61)  # rows that need padding


def bmp(rows, width, height, bits, *, compression=0, palette=b"", masks=b"", size=40, more=b""):
    """A BMP of raw rows, bottom row first."""
    head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    head += masks + more
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + head + palette + rows


def padded(row):
    return row + bytes(-len(row) % 4)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_a_bmp_is_read_as_another_library_reads_it(mode):
    image = Image.fromarray(PATTERN)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    photo = read_photo(files.pillow(image, "BMP"))
    expected = np.asarray(image.convert("L" if mode in ("L", "1") else "RGB"))
    np.testing.assert_array_equal(photo.pixels, expected)
    assert photo.is_gray == (mode in ("L", "1"))
    assert photo.format == "png"
    assert "BMP can't be written; the default output format is PNG" in photo.notes
    np.testing.assert_array_equal(read_photo(write_photo(photo, None)).pixels, expected)


def test_a_bmp_of_four_bits_and_one_from_the_top():
    palette = bytes(value for grey in range(16) for value in (grey, 2 * grey, 3 * grey, 0))
    rows = padded(b"\x01\x23\x40") + padded(b"\xfe\xdc\xb0")
    pixels = read_photo(bmp(rows, 5, 2, 4, palette=palette)).pixels
    assert pixels[:, :, 2].tolist() == [[15, 14, 13, 12, 11], [0, 1, 2, 3, 4]]
    assert pixels[0, 0].tolist() == [45, 30, 15]
    np.testing.assert_array_equal(read_photo(bmp(rows, 5, -2, 4, palette=palette)).pixels, pixels[::-1])


def test_bits_of_a_bmps_masks_are_spread_over_the_whole_range():
    words = struct.pack("<4H", 0x0000, 0x7FFF, 0x7C00, 0x0010)
    assert read_photo(bmp(words, 4, 1, 16)).pixels[0].tolist() == [[0] * 3, [255] * 3, [255, 0, 0], [0, 0, 132]]
    masks = struct.pack("<3I", 0xF800, 0x07E0, 0x001F)
    assert read_photo(bmp(struct.pack("<2H", 0xFFFF, 0x07E0), 2, 1, 16, compression=3, masks=masks)).pixels[
        0
    ].tolist() == [[255] * 3, [0, 255, 0]]
    masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    photo = read_photo(bmp(b"\1\2\3\4", 1, 1, 32, compression=3, masks=masks, size=56))
    assert (photo.pixels.tolist(), photo.alpha.tolist()) == ([[[1, 2, 3]]], [[4]])
    unused = read_photo(bmp(b"\1\2\3\4", 1, 1, 32))
    assert (unused.pixels.tolist(), unused.alpha) == ([[[3, 2, 1]]], None)


def test_an_old_bmp_and_one_with_a_profile():
    head = struct.pack("<IHHHH", 12, 2, 1, 1, 24)
    old = b"BM" + struct.pack("<IHHI", 34, 0, 0, 26) + head + padded(b"\1\2\3\4\5\6")
    assert read_photo(old).pixels.tolist() == [[[3, 2, 1], [6, 5, 4]]]
    profile = made.wide_profile()
    more = bytes(16) + b"DEBM" + bytes(48) + struct.pack("<4I", 0, 124 + 4, len(profile), 0)
    data = bmp(padded(b"\1\2\3"), 1, 1, 24, size=124, more=more) + profile
    assert read_photo(data).icc_profile == profile
    assert probe(data).icc_name == "primaries 12, transfer 13"


def test_bmps_that_are_not_read_say_why():
    for data, kind, words in (
        (bmp(b"\0" * 8, 4, 2, 8, compression=1), UnsupportedImageError, "a BMP with run-length compression"),
        (bmp(b"\0" * 8, 4, 2, 0, compression=5), UnsupportedImageError, "a BMP that contains a JPEG or PNG"),
        (bmp(b"\0" * 8, 4, 2, 7), UnsupportedImageError, "7 bits per pixel"),
        (bmp(b"\0" * 8, 400, 200, 24), UnreadableImageError, "the BMP file is truncated or damaged"),
        (bmp(b"\0" * 8, 2, 2, 8, palette=b"")[:58], UnreadableImageError, "the BMP file is truncated or damaged"),
        (bmp(b"", 0, 5, 24), UnreadableImageError, "unknown format"),
        (
            bmp(b"\0" * 8, 4, 1, 16, compression=3, masks=struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)),
            UnreadableImageError,
            "the BMP file is truncated or damaged",
        ),
    ):
        with pytest.raises(kind, match=words):
            read_photo(data)
    with pytest.raises(ImageTooLargeError):
        read_photo(bmp(b"", 1 << 20, 1 << 20, 24))


def test_a_still_gif_is_read_with_its_transparency():
    image = Image.fromarray(PATTERN).quantize(16)
    photo = read_photo(files.pillow(image, "GIF", transparency=3))
    np.testing.assert_array_equal(photo.alpha == 0, np.asarray(image) == 3)
    shown = photo.alpha > 0
    np.testing.assert_array_equal(photo.pixels[shown], np.asarray(image.convert("RGB"))[shown])
    assert photo.format == "png"
    assert probe(files.pillow(image, "GIF")).format == "gif"


@pytest.mark.parametrize("suffix", READ_SUFFIXES)
def test_what_is_read_alone_has_no_name_to_be_written_under(tmp_path, suffix):
    assert suffix not in SUFFIX_FORMATS
    data = files.pillow(Image.fromarray(PATTERN), suffix[1:].upper())
    (tmp_path / f"in{suffix}").write_bytes(data)
    with pytest.raises(UnsupportedImageError, match="expected one of the output formats png"):
        write_photo(read_photo(tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}")


def with_tag(data, tag, value):
    """A little-endian TIFF with another number in a SHORT tag."""
    patched = bytearray(data)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for index in range(count):
        place = at + 2 + 12 * index
        if struct.unpack_from("<H", data, place)[0] == tag:
            struct.pack_into("<H", patched, place + 8, value)
    return bytes(patched)


PLAIN = files.tiff(8, 8, bytes(1536))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (with_tag(PLAIN, 259, 6), "a TIFF with old-style JPEG compression"),
        (with_tag(PLAIN, 259, 33005), "a TIFF with JPEG 2000 compression"),
        (with_tag(PLAIN, 259, 34887), "a TIFF with LERC compression"),
        (with_tag(PLAIN, 259, 34925), "a TIFF with LZMA compression"),
        (with_tag(PLAIN, 259, 50000), "a TIFF with Zstandard compression"),
        (with_tag(PLAIN, 259, 65000), "a TIFF with compression 65000"),
        (files.tiff(8, 8, bytes(96), bits=(12,), photometric=1), "a TIFF with 12-bit samples"),
        (files.tiff(8, 8, bytes(96), bits=(4,) * 3), "a TIFF with 4-bit samples"),
        (files.tiff(8, 8, bytes(128), bits=(5, 6, 5)), "a TIFF with channels of different bit depths"),
    ],
)
def test_a_whole_tiff_that_is_not_decoded_is_not_called_damaged(data, what):
    with pytest.raises(UnsupportedImageError, match=f"{what} is not supported .*save it as PNG"):
        read_photo(data)
    with pytest.raises(UnreadableImageError, match="truncated or damaged"):
        read_photo(with_tag(data, 279, 60_000))  # the same, but for most of its pixels


def test_a_damaged_tiff_of_a_known_kind_is_still_called_damaged():
    target = io.BytesIO()
    Image.fromarray(files.pattern(400, 600)).save(target, "TIFF", compression="tiff_adobe_deflate")
    data = bytearray(target.getvalue())
    data[4000:4100] = bytes(100)
    with pytest.raises(UnreadableImageError, match="truncated or damaged"):
        read_photo(bytes(data))


@pytest.mark.parametrize(
    ("frame", "depth", "what"),
    [(0xC0, 12, "12-bit samples"), (0xC3, 8, "lossless coding"), (0xC5, 8, "hierarchical"), (0xF7, 8, "JPEG-LS")],
)
def test_a_whole_jpeg_that_is_not_decoded_is_not_called_damaged(frame, depth, what):
    data = bytearray(made.jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = frame, depth
    with pytest.raises(UnsupportedImageError, match=what):
        read_photo(bytes(data))
    with pytest.raises(UnreadableImageError, match="truncated or damaged"):
        read_photo(bytes(data[: len(data) // 2]))
