"""The web page in a real browser: pictures in, results out."""

import zipfile
from dataclasses import replace
from fractions import Fraction
from io import BytesIO

import numpy as np
import pytest
from page_driver import TOUCH
from serving import Inverting, picture, serving

import kbnet
from kbnet.imaging import Metadata, Photo, read_photo, write_photo
from kbnet.imaging.photo import Resolution

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("tiff", "tif")])
def test_a_picture_is_restored_shown_and_downloaded_at_its_own_depth(open_page, format, ending):
    page = open_page()
    pixels, data = picture(60, 80, dtype=np.uint16, format=format)
    page.add((f"cat.{format if format != 'tiff' else 'tif'}", data))
    page.shown()
    assert page.is_hidden("#download")
    page.restore()
    assert page.text("#said").startswith(f"cat.{ending} restored in")
    page.until(lambda: page.get_attribute("#after", "src"))  # of TIFF, which Chromium does not draw, too
    name, result = page.download()
    assert name == f"cat-denoised.{ending}"
    photo = read_photo(result)
    assert (photo.format, photo.pixels.dtype) == (format, np.uint16)
    assert np.array_equal(photo.pixels, 65535 - pixels)


def blend(before, after, strength):
    return np.rint(before + strength * (after.astype(np.float64) - before)).astype(before.dtype)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_download_is_the_blend_that_is_seen(open_page, server, held, kept, dtype):
    page = open_page()
    pixels, _ = picture(60, 80, dtype=dtype)
    photo = Photo(pixels, metadata=Metadata(resolution=Resolution(Fraction(4), Fraction(4), "cm")))
    page.add(("cat.png", write_photo(photo, None)))
    page.restore()
    page.set_strength(30)
    asked = len(held.strengths)
    if not kept:
        server.app.state.desk.kept.clear()  # as when its time is up
    _, data = page.download()
    result = read_photo(data)
    if kept:  # by the same pixels; the double of a Restorer knows no strengths
        assert len(held.strengths) == asked
        assert np.array_equal(result.pixels, blend(pixels, np.iinfo(dtype).max - pixels, 0.3))
    else:
        assert held.strengths[asked:] == [0.3]
    assert result.pixels.dtype == dtype
    assert result.metadata.resolution.per("cm") == (4, 4)
    page.set_strength(0)
    assert np.array_equal(read_photo(page.download()[1]).pixels, pixels) or not kept


def test_strength_is_seen_at_once(open_page):
    page = open_page()
    before = np.full((40, 60, 3), (200, 40, 120), np.uint8)
    page.add(("flat.png", write_photo(Photo(before), None)))
    page.restore()
    page.shown()
    box = page.locator("#canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2 + 70, box["y"] + box["height"] / 2 - 50  # beside the divider and its handle
    page.until(lambda: page.colour(x, y) == [55, 215, 135])
    page.set_strength(50)
    assert page.text("#look-strength-now") == "50%"
    assert page.colour(x, y) == pytest.approx([127.5] * 3, abs=1.5)
    page.set_strength(20)
    assert page.colour(x, y) == pytest.approx([171, 75, 123], abs=1.5)
    assert page.colour(x - 140, y) == [200, 40, 120]  # left of the divider: before


def test_another_format_is_made_from_the_same_result(open_page, held):
    page = open_page()
    page.add(("cat.png", picture(20, 30, dtype=np.uint16)[1]))
    page.restore()
    asked = len(held.strengths)
    page.select_option("#format", "jpeg")
    name, data = page.download()
    assert name == "cat-denoised.jpg"
    assert read_photo(data).format == "jpeg"
    page.wait_for_selector("#notes li")
    assert "rounded from 16" in page.text("#notes")
    assert len(held.strengths) == asked


def test_several_pictures_wait_in_line_and_an_error_stands_beside_its_picture(open_page):
    page = open_page()
    good, second = picture(20, 30, seed=1)[1], picture(24, 30, seed=2)[1]
    page.add(("one.png", good), ("<b>bad</b>.png", b"no picture"), ("two.png", second))
    assert page.text("#act") == "Restore 3 photos"
    page.restore(2)
    bad = page.locator("li[data-state=failed]")
    bad.wait_for()
    assert "<b>bad</b>.png" in bad.inner_text()  # as text, not as markup
    assert "it contains text" in bad.inner_text()
    red, green, blue = page.evaluate(
        "getComputedStyle(document.querySelector('li[data-state=failed] .state')).color.match(/\\d+/g).map(Number)"
    )
    assert red > 2 * max(green, blue)
    bad.locator(".open").click()
    assert "it contains text" in page.text("#facts")
    assert page.is_visible("#blank")
    assert page.text("#act") == "Try again"
    page.click("li .open >> text=two.png")
    page.until(lambda: "30 × 24" in page.text("#facts"))
    assert "it contains text" not in page.text("#facts")  # nothing stale
    assert page.download()[0] == "two-denoised.png"


def test_all_results_come_as_one_zip_each_as_it_is_seen(open_page):
    page = open_page()
    files = [picture(20, 30, seed=seed) for seed in range(2)]
    page.add(*[("same.png", data) for _, data in files])
    page.restore(2)
    page.set_strength(50)  # of the first, which is selected
    name, data = page.download("#download-all")
    assert name == "kbnet.zip"
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["same-denoised.png", "same-denoised (2).png"]
        first, second = (read_photo(archive.read(name)).pixels for name in archive.namelist())
    assert np.array_equal(first, blend(files[0][0], 255 - files[0][0], 0.5))
    assert np.array_equal(second, 255 - files[1][0])


def test_progress_shows_percent_and_time_left_and_stops(open_page, held):
    page = open_page()
    page.add(("known.png", picture(160, 160)[1]))
    page.restore()  # how long such a picture takes is known from now on
    held.gate.clear()
    try:
        page.add(("slow.png", picture(160, 160)[1]), ("later.png", picture(20, 30)[1]))
        page.click("#act")
        page.wait_for_selector("li[data-state=working] progress")
        page.until(lambda: "%" in page.text("li[data-state=working] .state"))
        assert "almost done" in page.text("li[data-state=working] .state")
        assert page.text("li[data-state=queued] .state") == "Queued"
        assert page.is_visible("#busy")
        page.click("#act")  # Stop
        page.wait_for_selector("li[data-state=ready] >> nth=1")
        assert page.is_hidden("#busy")
        assert page.text("#said") == "Stopped"
    finally:
        held.gate.set()
    page.click("li button[aria-label='Remove slow.png']")
    assert page.locator("#queue li").count() == 2
    assert page.text("#act") == "Restore"


class Nothing(Inverting):
    def __call__(self, image, /, **options):
        return super().__call__(image, **options) * 0 + image


def test_a_result_that_hardly_differs_says_so(open_page):
    with serving(Nothing().provide, page=True) as other:
        page = open_page(str(other.base_url))
        page.add(("clean.png", picture(20, 30)[1]))
        page.restore()
        assert "hardly any change (mean 0.0 of 255 levels)" in page.text("#facts")
        assert "the photo may already be clean" in page.text("#notes")
        assert page.text("li .state") == "Done, hardly any change"
        assert "hardly" in page.text("#said")


def test_another_task_restores_again(open_page, held):
    page = open_page()
    page.add(("cat.png", picture(20, 30)[1]))
    page.restore()
    assert page.is_hidden("#act")
    page.check("[name=task][value=derain]", force=True)
    assert page.text("#act") == "Restore again"
    assert page.is_hidden("#presets")  # there is one model for rain
    page.restore()
    page.until(lambda: page.is_hidden("#act"))
    assert held.asked[-1] == "derain"
    assert page.download()[0] == "cat-derained.png"


def test_larger_weights_are_offered_where_a_task_has_some(open_page):
    blur = next(entry for entry in kbnet.list_models("deblur") if entry.default)
    larger = replace(blur, name="kbnet-large-deblur", default=False, variant="hq")
    double = Inverting()
    with serving(double.provide, page=True, models=[*kbnet.list_models(), larger]) as other:
        page = open_page(str(other.base_url))
        assert page.is_hidden("#presets")
        page.check("[name=task][value=deblur]", force=True)
        page.check("[name=preset][value=best]", force=True)
        page.add(("cat.png", picture(20, 30)[1]))
        page.restore()
        assert double.asked[-1] == "deblur-hq"


def test_the_controls_are_those_of_the_picture_that_is_selected(open_page):
    page = open_page()
    page.add(("one.png", picture(20, 30)[1]))
    page.restore()
    page.set_strength(40)
    page.add(("two.png", picture(20, 30)[1]))
    page.check("[name=task][value=deblur]", force=True)
    page.restore(2)
    assert page.text("#look-strength-now") == "100%"
    page.click("li .open >> text=one.png")
    assert page.text("#look-strength-now") == "40%"
    assert page.is_checked("[name=task][value=denoise]")
    assert page.is_hidden("#act")  # nothing to do but to download it


def test_too_large_a_picture_says_what_to_do(open_page):
    page = open_page()
    page.add(("large.png", write_photo(Photo(np.zeros((2000, 1600), np.uint8)), None)))
    page.click("#act")
    page.wait_for_selector("li[data-state=failed]")
    assert "expected at most 3 megapixels, got 1600 x 2000; send a smaller image" in page.text("#queue")


def test_a_reload_says_what_was_lost(open_page, held):
    page = open_page()
    page.add(("one.png", picture(20, 30)[1]))
    page.restore()
    page.download()
    page.add(("two.png", picture(20, 30)[1]))
    page.restore(2)
    held.gate.clear()
    try:
        page.add(("three.png", picture(20, 30)[1]))
        page.click("#act")
        page.wait_for_selector("li[data-state=working]")
        page.reload()
        page.ready()
    finally:
        held.gate.set()
    lost = page.text("#banner")
    assert "two.png (restored, not downloaded)" in lost
    assert "three.png (not restored)" in lost
    assert "one.png" not in lost
    page.click("#banner button")
    assert page.is_hidden("#banner")
    page.reload()
    page.ready()
    assert page.is_hidden("#banner")


def test_dropped_pasted_photographed_and_example_pictures(open_page):
    page = open_page()
    give = """([bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
        const options = {bubbles: true, cancelable: true};
        const event = kind === "drop" ? new DragEvent("drop", {...options, dataTransfer: data})
                                      : new ClipboardEvent("paste", {...options, clipboardData: data});
        document.getElementById("viewer").dispatchEvent(event);
    }"""
    page.wait_for_selector("#examples button >> nth=2")
    page.click("#examples button[aria-label='Try the example for Rain']")
    page.wait_for_selector("text=example-derain.jpg")
    assert page.is_checked("[name=task][value=derain]")
    for kind in ("drop", "paste"):
        page.evaluate(give, [list(picture(20, 30)[1]), kind])
    page.context.grant_permissions(["camera"])
    page.click("#camera")
    page.until(lambda: page.evaluate("document.querySelector('#camera-dialog video').videoWidth > 0"))
    page.click("#camera-dialog [data-do=take]")
    page.wait_for_selector("li >> text=photo.png")
    page.click("li button[aria-label='Remove photo.png']")  # as large as the camera, which differs
    page.restore(3)


def test_a_locked_server_asks_for_its_key_and_the_page_needs_no_reload(open_page):
    with serving(Inverting().provide, page=True, api_key="s3cret") as locked:
        page = open_page(str(locked.base_url))
        page.fill("#key", "wrong")
        page.click("#key-form button")
        page.until(lambda: "Wrong key" in page.text("#key-wrong"))
        page.fill("#key", "s3cret")
        page.click("#key-form button")
        page.wait_for_selector("html[data-kbnet=ready]")
        page.add(("cat.tif", picture(20, 30, format="tiff")[1]))
        page.restore()
        page.set_strength(50)
        assert read_photo(page.download()[1]).format == "tiff"


def test_removing_a_picture_forgets_its_result_on_the_server(open_page, server):
    page = open_page()
    page.add(("cat.png", picture(20, 30)[1]))
    page.restore()
    before = len(server.app.state.desk.kept)
    page.click("li .drop")
    page.until(lambda: len(server.app.state.desk.kept) == before - 1)
    assert page.is_visible("#empty")
    assert page.text("#facts") == ""


def test_a_phone_shows_the_picture_and_one_button(open_page):
    page = open_page(device_scale_factor=2, **TOUCH)
    page.add(("a-rather-long-name-of-a-photograph-from-a-phone-2026-11-26.png", picture(60, 80)[1]))
    page.shown()
    assert page.is_hidden("#options")
    width, height = TOUCH["viewport"]["width"], TOUCH["viewport"]["height"]

    def fits(selector):
        box = page.locator(selector).bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert 0 <= box["y"] < box["y"] + box["height"] <= height
        assert box["height"] >= 38  # a thumb's width
        return box

    assert fits("#canvas")["height"] > height / 2
    fits("#act")
    page.restore()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    for selector in ("#download", "#zoom-one", "#add", "#more"):
        fits(selector)
    page.tap("#more")
    fits("#look-strength")
    page.set_strength(40)
    page.tap("#zoom-one")
