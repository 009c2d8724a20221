"""The pictures of the page show the page as it is."""

import json
import struct

import pytest
from page_states import PHOTO, PICTURES, RECORD, SCHEMES, SIZES, STATES, arrange, describe
from serving import Inverting, serving

pytestmark = pytest.mark.slow


class Slow(Inverting):
    """Stays in the third of four tiles while it is shut."""

    def __call__(self, image, /, *, strength, progress):
        if image.shape[:2] != (8, 8):
            progress(3, 4)
        return super().__call__(image, strength=strength, progress=lambda done, total: progress(max(done, 3), 4))


@pytest.fixture(scope="module")
def slow():
    return Slow()


@pytest.fixture(scope="module")
def real_size(slow):
    with serving(slow.provide, page=True) as client:
        yield client


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("size", SIZES)
def test_the_pictures_show_the_controls_that_there_are(open_page, real_size, slow, size, state):
    page = open_page(str(real_size.base_url), **SIZES[size])
    if state == "working":
        slow.gate.clear()
    try:
        arrange(page, state, PHOTO.read_bytes())
        now = describe(page)
    finally:
        slow.gate.set()
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[f"{state}-{size}"]
    assert now["controls"] == recorded["controls"], "the page has changed: run examples/screenshots.py"
    for top in (now["viewer_top"], recorded["viewer_top"]):
        assert top < 300


def test_every_picture_is_there_in_its_size():
    for state in STATES:
        for size, options in SIZES.items():
            ratio = options.get("device_scale_factor", 1)
            wanted = tuple(ratio * options["viewport"][side] for side in ("width", "height"))
            for scheme in SCHEMES:
                assert jpeg_size((PICTURES / f"{state}-{size}-{scheme}.jpg").read_bytes()) == wanted


def jpeg_size(data):
    """Width and height by the frame header."""
    at = 2
    while data[at + 1] not in (0xC0, 0xC2):
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    height, width = struct.unpack_from(">HH", data, at + 5)
    return width, height
