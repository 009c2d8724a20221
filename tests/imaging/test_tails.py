"""What follows a JPEG and is kept: gain maps with their index and description, turned with the image; videos."""

import io
import struct

import metadata_files as made
import numpy as np
import picture_files as files
import pytest
from PIL import Image, ImageOps

from kbnet.imaging import exif, plan_output, read_photo, write_photo
from kbnet.imaging.containers.scanning import picture_end, segments

TURNED = made.segment(0xE1, b"Exif\0\0" + files.exif(6))
GAIN = files.pattern(20, 30, seed=2)[..., 0]


def index_of(data):
    """Size and absolute offset of each picture in the multi-picture index."""
    start = next(start for marker, start, _ in segments(data) if data[start : start + 4] == b"MPF\0") + 4
    form, directory = exif.directory_of(data[start:])
    entries = directory.entries[0xB002].data
    places = [struct.unpack_from(form.order + "II", entries, at + 4) for at in range(0, len(entries), 16)]
    return [(size, offset + start if number else 0) for number, (size, offset) in enumerate(places)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_gain_map_is_kept_and_turned_with_the_image(orientation, order):
    head = made.segment(0xE1, b"Exif\0\0" + files.exif(orientation))
    data = made.ultra_hdr(head, second=GAIN, order=order)
    photo = read_photo(data)
    assert (photo.extras, photo.tail.names) == ((), ("the HDR gain map",))
    assert not any("gain map" in note for note in photo.notes)
    result = write_photo(photo, None)
    (main, at), (size, behind) = index_of(result)
    assert (at, main, behind, behind + size) == (0, picture_end(result), picture_end(result), len(result))
    second = result[behind:]
    assert b"urn:iso:std:iso:ts:21496:-1\0" + bytes(60) in second
    image = Image.fromarray(GAIN)
    image.getexif()[0x0112] = orientation
    wanted = np.asarray(ImageOps.exif_transpose(image), int)
    assert np.abs(np.asarray(Image.open(io.BytesIO(second)), int) - wanted).max() <= 8
    packet = photo.metadata.first("xmp")
    assert b'Item:Length="%d"' % size in packet
    assert b'hdrgm:Version="1.0"' in packet
    assert any(result[start:stop].startswith(b"urn:iso:std:iso:ts:21496:-1\0") for _, start, stop in segments(result))
    if orientation == 1:
        assert second == data[picture_end(data) :]
    again = read_photo(result)
    assert again.tail.data == second
    assert write_photo(again, None)[picture_end(write_photo(again, None)) :] == second


def test_other_formats_note_the_loss_and_drop_the_description():
    planned, notes = plan_output(read_photo(made.ultra_hdr()), "png")
    assert planned.tail is None
    assert "the HDR gain map is not kept; the standard image is" in notes
    assert b"hdrgm:Version" not in planned.metadata.first("xmp")


def test_a_gain_map_and_a_video_are_kept_together():
    video = made.motion_photo()[-3524:]
    assert b"ftypmp42" in video
    data = made.ultra_hdr() + video
    photo = read_photo(data)
    turned = write_photo(read_photo(made.ultra_hdr(TURNED) + video), None)
    assert turned.endswith(video)
    assert picture_end(turned, picture_end(turned)) == len(turned) - len(video)
    assert set(photo.tail.names) == {"the HDR gain map", "the video of a motion photo"}
    assert write_photo(photo, None).endswith(video)


@pytest.mark.parametrize(
    ("data", "extras"),
    [
        (made.two_pictures(0x020002), ("a second image",)),
        (made.jpeg(made.segment(0xE2, made.mpf(0, 0))) + made.ultra_hdr()[-900:], None),
        (made.ultra_hdr()[:-40], None),
        (made.ultra_hdr(times=5), ("the HDR gain map",)),
        (made.ultra_hdr(TURNED, length=5), ("the HDR gain map",)),
        (made.ultra_hdr(TURNED, times=2), ("the HDR gain map",)),
        (made.ultra_hdr(TURNED, second=files.pattern(400, 600)), ("the HDR gain map",)),
    ],
    ids=["a second image", "another index", "cut", "many", "another length", "equal lengths", "larger than the image"],
)
def test_what_is_not_understood_is_not_kept(data, extras):
    photo = read_photo(data)
    assert photo.tail is None
    if extras is not None:
        assert photo.extras == extras


def test_a_gain_map_that_cannot_be_decoded_is_not_turned():
    head = made.segment(0xE1, b"Exif\0\0" + files.exif(6))
    data = made.ultra_hdr(head)
    at = picture_end(data)
    damaged = data[:at] + data[at:].replace(b"\xff\xc0", b"\xff\xc9").replace(b"\xff\xc4", b"\xff\xcc")
    photo = read_photo(damaged)
    assert photo.tail is None
    assert photo.extras == ("the HDR gain map",)
    assert "the HDR gain map is not kept; the standard image is" in photo.notes
