"""HEIC files: pixels at 8, 10 and 12 bits, orientation, colour, metadata, what else they hold, and writing them."""

import contextlib
import io
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import picture_files as files
import pillow_heif
import pytest
from metadata_files import XMP
from PIL import Image

from kbnet.errors import ImageError, MissingExtraError, UnreadableImageError, UnsupportedImageError
from kbnet.imaging import Photo, icc, photo, plan_output, probe, read_photo, write_photo
from kbnet.imaging.containers import heif
from kbnet.inference.jobs import plan_jobs

P3 = icc.from_codes(12, 13, 3)


def heic(pixels=None, *, bits=8, **options):
    """A HEIC file made by another program."""
    pixels = files.pattern(40, 60) if pixels is None else pixels
    if bits > 8:
        pixels = np.rint(pixels.astype(float) / np.iinfo(pixels.dtype).max * ((1 << bits) - 1)).astype(np.uint16)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[1 if pixels.ndim == 2 else pixels.shape[2]]
    target = io.BytesIO()
    mode = mode if bits == 8 else f"{mode};{bits}"
    size = pixels.shape[1], pixels.shape[0]
    options = {"quality": 95, "chroma": 444, "bit_depth": bits} | options
    pillow_heif.encode(mode, size, pixels.tobytes(), target, **options)
    return target.getvalue()


def difference(photo, pixels):
    """Largest, in levels of 255."""
    top = np.iinfo(pixels.dtype).max
    return np.abs(photo.pixels.astype(float) / np.iinfo(photo.pixels.dtype).max - pixels / top).max() * 255


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("layout", ["gray", "rgb", "rgb-alpha"])
def test_pixels_and_alpha_are_read_at_their_depth(bits, layout):
    pixels = files.pattern(40, 61, files.LAYOUTS[layout], np.uint8 if bits == 8 else np.uint16)
    pixels = pixels[..., 0] if layout == "gray" else pixels
    data = heic(pixels, bits=bits)
    read = read_photo(data)
    assert (read.format, read.sample_bits, read.pixels.dtype) == ("heic", bits, pixels.dtype)
    assert difference(read, pixels[..., :3] if layout == "rgb-alpha" else pixels) < 8
    assert (read.alpha is not None) == (layout == "rgb-alpha")
    if read.alpha is not None:
        assert difference(replace(read, pixels=read.alpha, alpha=None), pixels[..., 3]) < 8
    info = probe(data)
    assert (info.width, info.height, info.bit_depth) == (61, 40, bits)
    assert (info.colour, info.has_alpha) == ("gray" if layout == "gray" else "RGB", layout == "rgb-alpha")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_the_file_is_applied_once(orientation):
    pixels = files.pattern(40, 60)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    target = io.BytesIO()
    pillow_heif.from_pillow(image).save(target, quality=95, chroma=444, exif=files.exif(orientation))
    read = read_photo(target.getvalue())
    shown = pillow_heif.open_heif(io.BytesIO(target.getvalue()))  # as other programs show it
    assert np.array_equal(read.pixels, np.asarray(shown))
    assert (probe(target.getvalue()).width, probe(target.getvalue()).height) == shown.size
    assert Image.open(io.BytesIO(write_photo(read, None, format="png"))).getexif().get(0x0112, 1) == 1


def test_colour_profile_exif_and_xmp_go_from_file_to_file():
    data = heic(icc_profile=P3, exif=b"Exif\0\0" + files.exif(), xmp=XMP)
    read = read_photo(data)
    assert read.icc_profile == P3
    for format in ("heic", "avif", "png", "jpeg", "tiff"):
        again = read_photo(write_photo(read, None, format=format))
        assert again.icc_profile == P3
        assert again.metadata.first("xmp") == XMP
        assert b"Maker\0" in again.metadata.first("exif")
    other = pillow_heif.open_heif(io.BytesIO(write_photo(read, None)))
    assert other.info["icc_profile"] == P3
    assert b"Maker\0" in other.info["exif"]
    assert other.info["xmp"] == XMP


def test_colour_codes_without_a_profile_become_one():
    data = heic(color_primaries=12, transfer_characteristics=13, matrix_coefficients=6, full_range_flag=1)
    read = read_photo(data)
    assert read.metadata.all("colour")[0].data == struct.pack(">HH", 12, 13)
    assert plan_output(read, "jpeg")[0].icc_profile == P3
    assert plan_output(read_photo(heic()), "jpeg")[0].icc_profile is None
    assert read_photo(write_photo(read, None, format="png")).icc_profile == P3  # PNG has no nclx chunk


def test_high_dynamic_range_and_sequences_are_refused_by_name():
    data = heic(bits=10, color_primaries=9, transfer_characteristics=16, matrix_coefficients=9, full_range_flag=1)
    with pytest.raises(UnsupportedImageError, match="HDR images"):
        read_photo(data)
    with pytest.raises(UnsupportedImageError, match="animations are not supported"):
        read_photo(b"\0\0\0\x18ftypmsf1\0\0\0\0msf1heic")


def test_further_images_are_named():
    target = io.BytesIO()
    file = pillow_heif.from_pillow(Image.fromarray(files.pattern(40, 60)))
    file.add_from_pillow(Image.fromarray(files.pattern(40, 60, seed=1)))
    file.save(target, quality=90)
    read = read_photo(target.getvalue())
    assert read.extras == ("a second image",)
    assert "a second image is not kept" in read.notes
    assert difference(read, files.pattern(40, 60)) < 60


@pytest.mark.parametrize(
    ("urn", "name"),
    [
        (b"urn:mpeg:hevc:2015:auxid:2", "a depth map"),
        (b"urn:com:apple:photo:2020:aux:hdrgainmap", "the HDR gain map"),
        (b"urn:com:apple:photo:2018:aux:portraiteffectsmatte", "an auxiliary image (portraiteffectsmatte)"),
    ],
)
def test_auxiliary_images_are_named(urn, name):
    data = heic(files.pattern(40, 60, 4))
    old = next(one for one in heif._ALPHA if one in data)
    made = renamed(data, old, urn)
    facts = heif.describe(made)
    assert (facts.auxiliary, facts.has_alpha) == ([name], False)
    read = read_photo(made)
    assert read.extras == (name,)
    assert read.alpha is None


def renamed(data, old, new):
    """The file with another auxiliary type; the boxes around it, and the places of all items, get longer."""
    from kbnet.imaging.containers.boxes import boxes

    grown = len(new) - len(old)
    at = data.index(old)
    edited = bytearray(data[:at] + new + data[at + len(old) :])

    def lengthen(start, stop):
        for kind, begin, end in boxes(data, start, stop):
            if begin <= at < end:
                (size,) = struct.unpack_from(">I", data, begin - 8)
                struct.pack_into(">I", edited, begin - 8, size + grown)
                if kind in (b"meta", b"iprp", b"ipco"):
                    lengthen(begin + (4 if kind == b"meta" else 0), end)

    lengthen(0, len(data))
    iloc = edited.index(b"iloc") + 4
    version, sizes = edited[iloc], struct.unpack_from(">H", edited, iloc + 4)[0]
    assert version in (0, 1)
    offset, length, base = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    place, (count,) = iloc + 8, struct.unpack_from(">H", edited, iloc + 6)
    for _ in range(count):
        place += 2
        method = struct.unpack_from(">H", edited, place)[0] & 15 if version else 0
        place += (2 if version else 0) + 2
        start = int.from_bytes(edited[place : place + base])
        if base and method == 0 and start:
            edited[place : place + base] = (start + grown).to_bytes(base)
        place += base
        (parts,) = struct.unpack_from(">H", edited, place)
        place += 2
        for _ in range(parts):
            if method == 0 and not (base and start):
                value = int.from_bytes(edited[place : place + offset]) + grown
                edited[place : place + offset] = value.to_bytes(offset)
            place += offset + length
    return bytes(edited)


@pytest.mark.parametrize("keep", [30, 100, 300, -20])
def test_a_cut_file_is_refused(keep):
    data = heic()
    with pytest.raises(UnreadableImageError, match=r"HEIC file is truncated or damaged|not an image"):
        read_photo(data[:keep])


def test_damage_anywhere_is_a_picture_or_a_clear_error():
    data = heic(exif=b"Exif\0\0" + files.exif())
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            broken[place] = rng.integers(256)
        with contextlib.suppress(ImageError):
            read_photo(bytes(broken), max_pixels=10_000_000)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_results_are_written_at_the_depth_of_the_input(bits):
    pixels = files.pattern(40, 60, 3, np.uint8 if bits == 8 else np.uint16)
    planned, notes = plan_output(Photo(pixels, sample_bits=bits), "heic")
    again = read_photo(write_photo(planned, None, format="heic"))
    assert again.sample_bits == min(bits, 12)
    assert difference(again, pixels) < 8
    assert notes == (("HEIC is limited to 12 bits per sample: rounded from 16",) if bits == 16 else ())


def test_without_the_extra_results_are_avif_with_a_note(monkeypatch):
    monkeypatch.setattr(photo, "find_spec", lambda name: None)
    photo.writes_heic.cache_clear()
    try:
        read = read_photo(heic(bits=10))
        assert read.format == "avif"
        assert "the default output format is AVIF; for HEIC, run: pip install 'kbnet[heic]'" in read.notes
        assert read_photo(write_photo(read, None)).sample_bits == 10
        with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[heic\]'"):
            write_photo(read, None, format="heic")
        with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[heic\]'"):
            plan_jobs(["a.png"], "b/", format="heic")
    finally:
        photo.writes_heic.cache_clear()


def test_results_are_named_by_what_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a.HEIC"
    path.write_bytes(heic())
    assert plan_jobs([path], suffix="-denoised")[0].output == tmp_path / "a-denoised.HEIC"
    assert [job.output.name for job in plan_jobs([tmp_path], suffix="-x")] == ["a-x.HEIC"]
    monkeypatch.setattr(photo, "find_spec", lambda name: None)
    photo.writes_heic.cache_clear()
    try:
        assert plan_jobs([path], suffix="-denoised")[0].output == tmp_path / "a-denoised.avif"
        assert [job.output.name for job in plan_jobs([tmp_path], suffix="-x")] == ["a-x.avif"]
    finally:
        photo.writes_heic.cache_clear()


def test_the_decoder_is_imported_only_for_heic():
    code = "import sys, kbnet.imaging as i; i.read_photo(sys.stdin.buffer.read()); print('pi_heif' in sys.modules)"
    for data, loaded in ((files.pillow(files.pattern(), "PNG"), "False"), (heic(), "True")):
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
        assert done.stdout.decode().strip() == loaded
