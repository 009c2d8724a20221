"""Zoom, pan and divider of the page's viewer."""

import re

import numpy as np
import pytest
from page_driver import TOUCH
from serving import picture

from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.look import Look, mix

pytestmark = pytest.mark.slow

LARGE = (1500, 2400)


@pytest.fixture(scope="module")
def large():
    return write_photo(Photo(np.full((*LARGE, 3), 90, np.uint8)), None)


def place(page):
    """(x, y, scale) of the picture in the canvas, CSS pixels."""
    style = page.evaluate("document.getElementById('before').style.transform")
    return tuple(float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", style))


def centre(page):
    box = page.locator("#canvas").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def size(page):
    return page.evaluate(
        "[document.getElementById('canvas').clientWidth, document.getElementById('canvas').clientHeight]"
    )


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_large_picture_begins_at_one_to_one_in_its_middle(open_page, large, ratio):
    page = open_page(device_scale_factor=ratio)
    page.add(("large.png", large))
    page.shown()
    x, y, scale = place(page)
    assert scale * ratio == pytest.approx(1)  # one pixel of the picture on one of the screen
    wide, high = size(page)
    assert (x, y) == pytest.approx(((wide - LARGE[1] * scale) / 2, (high - LARGE[0] * scale) / 2), abs=1)
    assert page.get_attribute("#zoom-one", "aria-pressed") == "true"
    assert page.text("#zoom-now") == "100%"


def test_a_small_picture_is_fitted(open_page):
    page = open_page()
    page.add(("small.png", picture(60, 80)[1]))
    page.shown()
    assert place(page)[2] == 4  # as large as it may get by itself
    assert page.get_attribute("#zoom-fit", "aria-pressed") == "true"


def test_a_double_click_fits_and_another_goes_back_to_that_point(open_page, large):
    page = open_page()
    page.add(("large.png", large))
    page.shown()
    x, y = centre(page)
    page.mouse.dblclick(x, y - 100)
    wide, high = size(page)
    fitted = place(page)
    assert fitted[2] == pytest.approx(min(wide / LARGE[1], high / LARGE[0]), rel=1e-4)
    page.mouse.dblclick(x + 100, y)
    left, _, scale = place(page)
    assert scale == 1
    box = page.locator("#canvas").bounding_box()
    under = x + 100 - box["x"]
    assert (under - left) / scale == pytest.approx((under - fitted[0]) / fitted[2], abs=1)


def test_the_wheel_zooms_around_the_pointer_and_dragging_moves(open_page, large):
    page = open_page()
    page.add(("large.png", large))
    page.shown()
    x, y = centre(page)
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(x + 50, y + 30)
    before = place(page)
    page.mouse.wheel(0, -300)
    page.until(lambda: place(page)[2] > 1.2)
    after = place(page)
    under = x + 50 - box["x"]
    assert (under - after[0]) / after[2] == pytest.approx((under - before[0]) / before[2], abs=1)
    page.mouse.down()
    page.mouse.move(x + 90, y + 50, steps=4)
    page.mouse.up()
    moved = place(page)
    assert (moved[0] - after[0], moved[1] - after[1]) == pytest.approx((40, 20), abs=1)
    page.mouse.down()
    page.mouse.move(x + 9000, y + 9000, steps=2)  # no further than the picture's edge
    page.mouse.up()
    assert place(page)[:2] == (0, 0)


def test_two_fingers_pinch(open_page, large):
    page = open_page(**TOUCH)
    page.add(("large.png", large))
    page.shown()
    x, y = centre(page)
    touch = page.context.new_cdp_session(page.page)

    def fingers(kind, apart):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    before = place(page)[2]
    fingers("touchStart", 40)
    for apart in range(45, 85, 5):
        fingers("touchMove", apart)
    fingers("touchEnd", 0)
    assert place(page)[2] == pytest.approx(2 * before, rel=0.05)


def test_the_divider_moves_by_mouse_and_keyboard(open_page):
    page = open_page()
    page.add(("cat.png", picture(60, 80)[1]))
    page.restore()
    page.shown()

    def cut():
        style = page.evaluate("document.getElementById('layer-after').style.clipPath")
        return float(re.search(r"([\d.]+)px\)$", style)[1])

    wide, _ = size(page)
    assert cut() == pytest.approx(wide / 2)
    handle = page.locator("#divider").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert cut() == pytest.approx(wide / 2 + 100, abs=2)
    page.focus("#divider")
    page.keyboard.press("Home")
    assert cut() == 0
    assert page.get_attribute("#divider", "aria-valuetext") == "0% before, 100% after"
    page.keyboard.press("End")
    assert cut() == pytest.approx(wide)
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#divider", "aria-valuenow") == "98"


def test_keys_zoom_and_move(open_page, large):
    page = open_page()
    page.add(("large.png", large))
    page.shown()
    page.focus("#canvas")
    x = place(page)[0]
    page.keyboard.press("ArrowRight")
    assert place(page)[0] == x - 60
    page.keyboard.press("+")
    assert place(page)[2] == 1.25
    page.keyboard.press("0")
    assert place(page)[2] < 1
    page.keyboard.press("1")
    assert place(page)[2] == 1


def test_the_zoom_stays_while_one_picture_becomes_restored(open_page, large):
    page = open_page()
    page.add(("large.png", write_photo(Photo(np.full((900, 2000), 90, np.uint8)), None)))
    page.shown()
    page.click("#zoom-in")
    before = place(page)
    page.restore()
    page.until(lambda: page.get_attribute("#after", "src"))
    assert place(page) == before


def test_colour_strength_and_detail_are_seen_at_once_and_downloaded(open_page, server):
    """What the browser mixes is what the server encodes."""
    page = open_page()
    pixels, data = picture(50, 70)
    page.add(("cat.png", data))
    page.restore()
    page.shown()
    page.set_strength(60)
    assert [page.text(f"#look-{name}-now") for name in ("colour", "detail")] == ["60%", "0%"]  # colour follows
    assert page.is_hidden("#mixed")
    page.fill("#look-colour", "20")
    page.fill("#look-detail", "70")
    page.until(lambda: page.is_visible("#mixed"))
    page.wait_for_timeout(200)
    drawn = page.evaluate("""() => { const { width, height } = document.getElementById("mixed");
        return [...document.getElementById("mixed").getContext("2d").getImageData(0, 0, width, height).data]; }""")
    seen = np.array(drawn, np.uint8).reshape(50, 70, 4)[..., :3]
    result = read_photo(page.download()[1]).pixels
    wanted = 255 - pixels
    mix(pixels, wanted, Look(0.6, 0.2, 0.7))
    assert np.array_equal(result, wanted)
    assert np.abs(seen.astype(int) - result).max() <= 1  # float32 sums in another order
    page.fill("#look-colour", "60")
    page.fill("#look-detail", "0")
    page.until(lambda: page.is_hidden("#mixed"))
