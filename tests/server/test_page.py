"""The web page in a real browser."""

import os
from pathlib import Path

import numpy as np
import pytest
from browser import FLAGS, chromium
from serving import PATIENCE, Inverting, picture, serving

from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.server import Limits

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
play = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
if chromium() is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def held():
    return Inverting()


@pytest.fixture(scope="module")
def server(held):
    with serving(held.provide, Limits(pixels=3_000_000), page=True) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    with play.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Open the page, of which nothing may go wrong and no request leave the machine."""
    pages, wrong, asked = [], [], []

    def start(**options):
        options = {"viewport": {"width": 1000, "height": 900}, "locale": "en"} | options
        page = browser.new_context(**options).new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(str(server.base_url))
        page.wait_for_selector("html[data-kbnet=ready]")
        pages.append(page)
        return page

    yield start
    for page in pages:
        page.context.close()
    assert wrong == []
    assert asked
    assert [url for url in asked if not url.startswith((str(server.base_url), "blob:", "data:"))] == []
    assert [url for url in asked if "/gradio_api/" in url and "startup-events" not in url] == []


def add(page, *files):
    page.set_input_files("#kb-files", [{"name": n, "mimeType": "image/x", "buffer": data} for n, data in files])


def restore(page, count=1):
    page.click("#kb-restore")
    page.wait_for_function(f"document.querySelectorAll('li[data-state=done]').length === {count}")
    page.wait_for_selector("#kb-download:not([hidden])")


def downloaded(page):
    with page.expect_download() as download:
        page.click("#kb-download")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def pixel(page, selector):
    """The colour at the middle of a picture, as the browser draws it."""
    return page.eval_on_selector(
        selector,
        """image => {
            const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
            const context = canvas.getContext("2d");
            context.drawImage(image, image.naturalWidth / 2, image.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }""",
    )


@pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("tiff", "tif")])
def test_a_picture_is_restored_shown_and_downloaded_at_its_own_depth(open_page, format, ending):
    page = open_page()
    pixels, data = picture(60, 80, dtype=np.uint16, format=format)
    pixels[30, 40] = (0, 0x8000, 0xFFFF)
    add(page, (f"cat.{format}", data))
    page.wait_for_selector("#kb-result:not([hidden])")
    assert page.is_hidden("#kb-download")
    restore(page)
    assert page.inner_text("#kb-status").startswith(f"cat.{format} restored in")
    before, after = pixel(page, "#kb-before"), pixel(page, "#kb-after")
    assert np.abs(np.add(before, after) - 255).max() <= 1  # inverted; also of TIFF, which Chromium does not draw
    name, result = downloaded(page)
    assert name == f"cat-denoised.{ending}"
    photo = read_photo(result)
    assert (photo.format, photo.pixels.dtype) == (format, np.uint16)
    assert np.array_equal(photo.pixels, 65535 - read_photo(data).pixels)


def test_the_slider_divides_by_mouse_and_keyboard(open_page):
    page = open_page()
    add(page, ("cat.png", picture(60, 80)[1]))
    restore(page)

    def cut():
        return page.eval_on_selector(
            "#kb-after", "image => parseFloat(image.style.clipPath.match(/([\\d.]+)px\\)$/)[1])"
        )

    middle = cut()
    assert middle > 0
    handle = page.locator("#kb-handle").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 3
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y, steps=4)
    page.mouse.up()
    assert cut() == pytest.approx(middle + 100, abs=10)  # whole percents
    page.focus("#kb-slide")
    page.keyboard.press("Home")
    assert cut() == 0
    assert page.get_attribute("#kb-slide", "aria-valuetext") == "0 % before, 100 % after"
    page.keyboard.press("End")
    assert cut() == pytest.approx(page.eval_on_selector("#kb-stage", "stage => stage.clientWidth"), abs=1)


@pytest.mark.parametrize("ratio", [1, 2])
def test_one_to_one_is_a_pixel_of_the_screen_for_each_of_the_picture(open_page, ratio):
    page = open_page(device_scale_factor=ratio)
    add(page, ("wide.png", picture(40, 2400)[1]))
    restore(page)
    width = "stage => stage.getBoundingClientRect().width * devicePixelRatio"
    assert page.eval_on_selector("#kb-stage", width) < 2400
    page.click("#kb-one")
    assert page.get_attribute("#kb-one", "aria-pressed") == "true"
    assert page.eval_on_selector("#kb-stage", width) == pytest.approx(2400, abs=0.01)
    if ratio == 1:
        assert page.eval_on_selector("#kb-view", "view => view.scrollLeft") > 0  # the middle is shown


def test_several_pictures_wait_in_line_and_an_error_is_told_beside_its_picture(open_page):
    page = open_page()
    good, second = picture(20, 30, seed=1)[1], picture(24, 30, seed=2)[1]
    add(page, ("one.png", good), ("<b>bad</b>.png", b"no picture"), ("two.png", second))
    restore(page, 2)
    bad = page.locator("li[data-state=failed]")
    assert "expected a PNG, JPEG, TIFF, WebP or AVIF image, got text" in bad.inner_text()
    assert "<b>bad</b>.png" in bad.inner_text()  # as text, not as markup
    bad.locator(".kb-name").click()
    page.wait_for_function("document.getElementById('kb-alert').textContent.includes('got text')")
    page.click("button.kb-name >> text=one.png")
    page.wait_for_function("document.getElementById('kb-facts').textContent.startsWith('30 × 20')")
    assert page.inner_text("#kb-alert") == ""
    assert downloaded(page)[0] == "one-denoised.png"


def test_messages_say_what_to_do(open_page):
    page = open_page()
    page.click("#kb-restore")
    assert "There is no picture yet" in page.inner_text("#kb-alert")
    add(page, ("large.png", write_photo(Photo(np.zeros((2000, 1600), np.uint8)), None)))
    page.click("#kb-restore")
    page.wait_for_selector("li[data-state=failed]")
    assert "expected at most 3 megapixels, got 1600 x 2000; send a smaller picture" in page.inner_text("#kb-list")


def test_progress_is_shown_while_it_lasts_and_a_removed_picture_is_not_finished(open_page, held):
    page = open_page()
    held.gate.clear()
    try:
        add(page, ("slow.png", picture(20, 30)[1]))
        page.click("#kb-restore")
        page.wait_for_selector("li[data-state=working] progress[value='0']")
        assert "0 %" in page.inner_text("#kb-list")
        page.click("li button[aria-label='Remove slow.png']")
        assert page.locator("#kb-list li").count() == 0
    finally:
        held.gate.set()
    assert page.is_hidden("#kb-result")


def test_the_controls_choose_strength_and_format(open_page, held):
    page = open_page()
    page.fill("#kb-strength input[type=number]", "0.4")
    page.keyboard.press("Tab")
    page.click("#kb-format input")
    page.click("[role=option] >> text=JPEG")
    add(page, ("cat.png", picture(20, 30, dtype=np.uint16)[1]))
    restore(page)
    assert held.strengths[-1] == 0.4
    assert downloaded(page)[0] == "cat-denoised.jpg"
    assert "16-bit rounded to 8" in page.inner_text("#kb-notes")


def test_dropped_pasted_photographed_and_example_pictures(open_page, server):
    page = open_page()
    give = """([bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
        const options = {bubbles: true, cancelable: true};
        const event = kind === "drop" ? new DragEvent("drop", {...options, dataTransfer: data})
                                      : new ClipboardEvent("paste", {...options, clipboardData: data});
        document.getElementById("kb-drop").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [list(picture(20, 30)[1]), kind])
    page.context.grant_permissions(["camera"])
    page.click("#kb-camera")
    page.wait_for_function("document.querySelector('#kb-video video').videoWidth > 0")
    page.click("#kb-video [data-do=take]")
    page.wait_for_selector("text=photo.png")
    page.wait_for_function("document.getElementById('kb-facts').textContent.includes('×')")
    page.click("li button[aria-label='Remove photo.png']")  # as large as the camera, which differs
    page.click("#kb-examples button >> nth=0")
    page.wait_for_selector("text=example-denoise.jpg")
    restore(page, 3)


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page):
    page = open_page(viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    add(page, ("a-rather-long-name-of-a-photograph-from-a-phone-2026-11-26.png", picture(60, 80)[1]))
    restore(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for selector in ("#kb-restore", "#kb-download", "#kb-one", "label[for=kb-files]", "#kb-slide"):
        box = page.locator(selector).bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= PHONE["width"]
        assert box["height"] >= 40  # a thumb's width
    page.tap("#kb-one")
    if folder := os.environ.get("KBNET_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "phone.png")


def test_everything_has_a_name_and_is_reached_by_the_tab_key(open_page):
    page = open_page()
    add(page, ("cat.png", picture(20, 30)[1]))
    restore(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("#kb-top :is(button, input, a), #kb-result :is(button, input, a)")]
            .filter(one => one.checkVisibility() && !one.ariaHidden && !one.ariaLabel && !one.textContent.trim()
                           && !one.labels?.length).map(one => one.outerHTML)"""
    )
    assert nameless == []
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {
        "kb-files",
        "kb-camera",
        "kb-paste",
        "kb-restore",
        "kb-fit",
        "kb-one",
        "kb-download",
        "kb-view",
        "kb-slide",
    }
    assert wanted <= reached
    assert page.get_attribute("#kb-status", "aria-live") == "polite"
    assert page.get_attribute("html", "lang") == "en"


def test_gradio_takes_no_files_and_runs_no_functions(server):
    for method, path in [
        ("POST", "/gradio_api/upload"),
        ("POST", "/upload"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
        ("POST", "/gradio_api/queue/join"),
        ("GET", "/gradio_api/info"),
        ("GET", "/static/../../../etc/passwd"),
        ("GET", "/page/..%2f..%2fpage.py"),
    ]:
        reply = server.request(method, path)
        assert reply.status_code == 404, path
        assert list(reply.json()) == ["error"]


def test_the_page_may_talk_to_nobody_else(server, open_page):
    assert "connect-src 'self'" in server.get("/").headers["content-security-policy"]
    page = open_page()
    assert page.title() == "kbnet"
