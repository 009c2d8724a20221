"""Linear and wide-gamut pictures: values outside sRGB survive, and are restored."""

import io
import struct

import numpy as np
import picture_files as files
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

from kbnet.errors import UnsupportedImageError
from kbnet.imaging import Photo, icc, plan_output, probe, read_photo, write_photo
from kbnet.imaging.icc import displayed, from_codes, icc_name, is_linear
from kbnet.imaging.linear import decode, encode
from kbnet.inference.jobs import Job, run_jobs
from kbnet.inference.look import mix

P3, REC_2020 = from_codes(12, 13, 3), from_codes(9, 13, 3)
ADOBE = icc.from_gamma(1 / 2.2, ((0.3127, 0.3290), (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 3)
LINEAR_2020 = from_codes(9, 8, 3)
SPACES = {"Display P3": P3, "Adobe RGB": ADOBE, "Rec. 2020": REC_2020}


def float_tiff(pixels, profile=None, **options):
    target = io.BytesIO()
    tags = [(34675, "B", len(profile), profile, True)] if profile else []
    photometric = "minisblack" if pixels.ndim == 2 else "rgb"
    tifffile.imwrite(target, pixels, photometric=photometric, extratags=tags, metadata=None, **options)
    return target.getvalue()


def floats_of(data):
    """The samples of a float TIFF, by libtiff."""
    image = pyvips.Image.tiffload_buffer(data)
    assert image.format == "float"
    array = np.frombuffer(image.write_to_memory(), np.float32).reshape(image.height, image.width, image.bands)
    return array[..., 0] if image.bands == 1 else array


def scene(height=40, width=60, seed=0):
    """Scene-linear: mostly between black and white, with highlights far above and saturated colours below zero."""
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3)).astype(np.float32) ** 2
    image[5:9, 5:9] = (50, 20, 3)
    image[20:24, 20:24] = (-0.1, 0.9, -0.05)
    image[0, 0] = 0
    return image


def run(data, restore, **options):
    (result,) = run_jobs([Job(data, None)], restore, **options)
    assert result.error is None
    return result, read_photo(result.data)


def same(pixels, progress=None):
    return pixels.copy()


def lab(pixels, profile):
    """CIELAB of 8-bit pixels, by LittleCMS."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    target = ImageCms.createProfile("LAB")
    turn = ImageCms.buildTransform(source, target, "RGB", "LAB", renderingIntent=1)
    values = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), turn)).astype(np.int16)
    values[..., 1:] = values[..., 1:].astype(np.int8)
    return values


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("format", ["png", "tiff", "jpeg", "webp", "avif", "heic"])
def test_colours_outside_srgb_survive_in_every_format(name, format):
    pixels = files.pattern(40, 60)
    pixels[10:20, 10:20] = (0, 255, 0)  # outside sRGB in each of these spaces
    data = write_photo(Photo(pixels, icc_profile=SPACES[name]), None, format="png")
    _, result = run(data, same, format=format)
    assert result.icc_profile == SPACES[name]
    away = np.abs(lab(result.pixels, result.icc_profile) - lab(pixels, SPACES[name]))
    assert np.median(away) <= 1
    assert away[12:18, 12:18].max() <= (0 if format in ("png", "tiff") else 4)


@pytest.mark.parametrize("name", SPACES)
def test_colours_outside_srgb_are_restored(name):
    """A restorer sees the file's own values, not clipped ones."""
    pixels = np.full((24, 24, 3), (10, 250, 20), np.uint8)
    seen = []

    def smooth(image, progress):
        seen.append(image.copy())
        return np.full_like(image, 7) + image // 2

    run(write_photo(Photo(pixels, icc_profile=SPACES[name]), None), smooth)
    assert np.array_equal(seen[0], pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("profile", [None, LINEAR_2020])
def test_scene_linear_floats_come_back(dtype, compression, profile):
    image = scene().astype(dtype)
    data = float_tiff(image, profile, compression=compression)
    assert probe(data).bit_depth == 32
    result, photo = run(data, same)
    assert (photo.format, photo.linear, photo.pixels.dtype, photo.icc_profile) == ("tiff", True, np.float32, profile)
    stored = floats_of(result.data)
    assert stored.dtype == np.float32
    assert np.abs(stored - image).max() <= 1e-6 * np.abs(image).max()
    assert np.allclose(stored, image, rtol=2e-6, atol=1e-7)
    if dtype == np.float16:
        assert "16-bit float samples expanded to 32-bit" in result.notes


@pytest.mark.parametrize("shape", [(24, 30), (24, 30, 4)])
def test_gray_and_alpha_of_floats_are_kept(shape):
    image = scene(24, 30)
    image = image[..., 0] if len(shape) == 2 else np.dstack([image, np.linspace(0, 1, 720).reshape(24, 30)])
    image = image.astype(np.float32)
    options = {"extrasamples": ["unassalpha"]} if len(shape) == 3 else {}
    result, photo = run(float_tiff(image, **options), same)
    assert photo.is_gray == (len(shape) == 2)
    assert np.allclose(floats_of(result.data), image, rtol=2e-6, atol=1e-7)


def test_floats_with_an_ordinary_profile_are_restored_as_they_are():
    image = np.clip(scene(), -0.2, 1.2)
    read = read_photo(float_tiff(image, P3))
    assert not read.linear
    assert np.array_equal(read.pixels, image)
    assert np.array_equal(floats_of(write_photo(read, None)), image)


def test_sixteen_bit_linear_samples_are_encoded_for_restoring():
    pixels = files.pattern(40, 60, 3, np.uint16)
    for format in ("tiff", "png"):
        data = write_photo(Photo(pixels, icc_profile=LINEAR_2020), None, format=format)
        read = read_photo(data)
        assert read.linear
        assert np.allclose(read.pixels, encode(pixels.astype(np.float32) / 65535), atol=1e-6)
        _, result = run(data, same)
        assert (result.format, result.sample_bits) == (format, 16)
        stored = np.rint(decode(result.pixels) * 65535).astype(np.uint16)
        assert np.array_equal(stored, pixels)


def test_what_linear_light_becomes_in_other_formats_looks_the_same():
    """Against LittleCMS: the linear file, and the JPEG and PNG with the profile that they get."""
    image = files.pattern(40, 60).astype(np.float32) / 255
    photo = read_photo(float_tiff(image, LINEAR_2020))
    linear16 = np.rint(image * 65535).astype(np.uint16)
    wanted = lab(np.rint(encode(image) * 255).astype(np.uint8), REC_2020)
    assert linear16.max() > 60000
    for format in ("png", "jpeg", "avif"):
        planned, notes = plan_output(photo, format)
        assert "scene-linear values are stored with the sRGB curve" in notes
        assert not any("clipped" in note for note in notes)
        result = read_photo(write_photo(photo, None, format=format))
        assert not is_linear(result.icc_profile)
        shown = result.pixels if result.pixels.dtype == np.uint8 else (result.pixels // 257).astype(np.uint8)
        assert np.median(np.abs(lab(shown, result.icc_profile) - wanted)) <= 1
        assert planned.pixels.dtype == (np.uint8 if format == "jpeg" else np.uint16)
    assert any("clipped" in note for note in plan_output(read_photo(float_tiff(scene())), "png")[1])


def test_noise_of_linear_light_is_restored_as_in_an_ordinary_photo():
    """The network's input has the contrast of ordinary photos, and values beyond white are changed too."""
    rng = np.random.default_rng(0)
    image = np.full((32, 32, 3), 0.2, np.float32)
    image[8:24, 8:24] = 3.0
    noisy = image * (1 + rng.normal(0, 0.1, image.shape)).astype(np.float32)

    def average(pixels, progress):
        assert 0.4 < np.median(pixels) < 0.6  # 0.2 of the light
        assert pixels.max() < 1.6
        result = pixels.copy()
        result[8:24, 8:24] = pixels[8:24, 8:24].mean(axis=(0, 1))
        return result

    result, _ = run(float_tiff(noisy), average)
    stored = floats_of(result.data)
    assert np.abs(stored[8:24, 8:24] - 3).max() < 0.15 < np.abs(noisy[8:24, 8:24] - 3).max()
    assert 0 < result.change < 0.1


def test_the_curve_and_its_inverse():
    values = np.array([-1000, -1, -1e-3, 0, 1e-4, 0.0031308, 0.18, 0.5, 1, 1.0001, 2, 10, 100, 1e5], np.float32)[
        :, None
    ]
    encoded = encode(values)
    assert np.all(np.diff(encoded[:, 0]) > 0)
    assert np.allclose(decode(encoded), values, rtol=2e-6)
    inside = (values >= 0) & (values <= 1)
    srgb = np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 0) ** (1 / 2.4) - 0.055)
    assert np.allclose(encoded[inside], srgb[inside], atol=1e-6)
    assert encoded[values == 100] < 2.5


def test_linear_profiles_are_recognised():
    assert is_linear(LINEAR_2020)
    assert not any(map(is_linear, (P3, ADOBE, REC_2020, files.SRGB, b"", bytes(200), b"\xff" * 400)))
    parametric = LINEAR_2020.replace(b"curv\0\0\0\0\0\0\0\1\1\0", b"para\0\0\0\0\0\0\0\0\0\1\0\0", 1)
    assert len(parametric) == len(LINEAR_2020) + 2  # only its reading is tested here, not its table
    assert icc._is_line(b"para" + bytes(4) + struct.pack(">HHi", 0, 0, 65536))
    assert icc._is_line(b"curv" + bytes(4) + struct.pack(">I", 0))
    assert not icc._is_line(b"curv" + bytes(4) + struct.pack(">IH", 1, 563))
    assert "sRGB curve" in icc_name(displayed(LINEAR_2020))
    assert displayed(b"\0" * 200) is None
    assert np.abs(lab(files.pattern(), displayed(LINEAR_2020)) - lab(files.pattern(), REC_2020)).max() <= 1


def test_floats_of_another_white_and_broken_ones_are_refused():
    for image, words in ((scene() + 200, "white at 1"), (np.full((9, 9, 3), np.nan, np.float32), "NaN")):
        with pytest.raises(UnsupportedImageError, match=words):
            read_photo(float_tiff(image))


def test_the_look_of_floats_is_not_clipped():
    photo = read_photo(float_tiff(scene()))
    after = photo.pixels * 0.9
    from kbnet.inference.look import Look

    mixed = after.copy()
    mix(photo.pixels, mixed, Look(0.5))
    assert np.allclose(mixed, photo.pixels * 0.95, atol=1e-5)
