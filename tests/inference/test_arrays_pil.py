"""PIL images: what they keep, and modes that become others."""

import io

import numpy as np
import pytest
import pyvips
from identities import IDENTITIES, values
from PIL import Image

from kbnet.imaging import read_photo
from kbnet.inference.arrays import accept


def test_a_pil_images_profile_exif_and_resolution_are_kept():
    image = Image.new("RGB", (8, 8))
    kept = {"icc_profile": b"profile", "exif": b"Exif", "dpi": (300, 300), "xmp": b"<x/>", "comment": b"mine"}
    image.info.update(kept, other="dropped")
    assert accept(image).result().info == kept


def test_a_palettes_transparent_colour_becomes_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.info["transparency"] = 1
    result = IDENTITIES[3](image)
    assert result.mode == "RGBA"
    assert values(result).tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]


def test_a_palette_with_alpha_keeps_it():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 255, 255))
    quantized = image.quantize()
    assert quantized.info == {}
    assert values(IDENTITIES[3](quantized)).tolist() == values(image).tolist()


def test_a_camera_jpeg_with_previews_is_a_still_image():
    photo, preview = Image.new("RGB", (9, 8), (200, 100, 50)), Image.new("RGB", (3, 2))
    file = io.BytesIO()
    photo.save(file, "MPO", save_all=True, append_images=[preview])
    opened = Image.open(file)
    assert opened.is_animated
    assert IDENTITIES[3](opened).size == (9, 8)


def test_images_of_pillows_plug_ins_are_accepted():
    class Plugged(Image.Image):
        pass

    plugged = Image.new("RGB", (5, 4), (1, 2, 3))
    plugged.__class__ = Plugged
    assert values(IDENTITIES[3](plugged)).tolist() == np.full((4, 5, 3), (1, 2, 3)).tolist()


@pytest.mark.parametrize(("mode", "key", "result"), [("L", 7, "LA"), ("RGB", (1, 2, 3), "RGBA"), ("1", 255, "LA")])
def test_a_transparent_value_becomes_alpha(mode, key, result):
    image = Image.new(mode, (4, 3), 200 if mode == "L" else None)
    image.putpixel((2, 1), key)
    image.info["transparency"] = key
    restored = IDENTITIES[3](image)
    assert restored.mode == result
    assert "transparency" not in restored.info
    assert np.argwhere(values(restored.getchannel("A")) == 0).tolist() == [[1, 2]]


def test_a_cmyk_image_is_converted_by_its_profile_and_comes_back_with_that_of_srgb():
    profile = pyvips.Operation.call("profile_load", "cmyk")
    image = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    image.info["icc_profile"] = profile
    restored = IDENTITIES[3](image)
    assert restored.mode == "RGB"
    assert restored.info["icc_profile"][16:20] == b"RGB "
    # as red as these inks are on paper, which is what the file of such a picture is read as
    file = io.BytesIO()
    image.save(file, "TIFF", icc_profile=profile)
    np.testing.assert_array_equal(values(restored), read_photo(file.getvalue()).pixels)
    assert restored.getpixel((0, 0)) != (255, 0, 0)
    assert IDENTITIES[3](Image.new("CMYK", (4, 3), (0, 255, 255, 0))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("profile", [b"no profile", bytes(16) + b"CMYK" + bytes(112), bytes(16) + b"RGB " + bytes(112)])
def test_a_damaged_cmyk_profile_never_comes_back(profile):
    image = Image.new("CMYK", (4, 3))
    image.info["icc_profile"] = profile
    restored = IDENTITIES[3](image)
    assert restored.info["icc_profile"][16:20] == b"RGB "
    assert values(restored).min() > 250


def test_a_profile_of_other_channels_than_the_results_is_dropped():
    gray = bytes(16) + b"GRAY" + bytes(112)
    for mode, kept in (("L", True), ("1", False), ("P", False)):
        image = Image.new(mode, (4, 3))
        image.info["icc_profile"] = gray
        assert ("icc_profile" in IDENTITIES[3](image).info) == kept
