"""The page that restores in the browser, in the system's Chromium."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from browser import FLAGS, chromium
from photos import decode, difference, display_p3, encode, expected, load, noisy
from PIL import Image, PngImagePlugin

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    """Chromium, or a skip that says what is missing."""
    play = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if chromium() is None:
        pytest.skip("there is no Chromium on this machine: install the system's package chromium")
    with play.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, host):
    """Open the page; nothing may go wrong in it, and nothing may leave its origin."""
    from page_driver import Page

    contexts, wrong, asked = [], [], []

    def start(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))  # of workers too
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
        page.on("dialog", lambda dialog: dialog.accept())
        return Page(page, host.address + "/")

    yield start
    for context in contexts:
        context.close()
    assert wrong == []
    assert asked
    assert [url for url in asked if not url.startswith((host.address, f"blob:{host.address}", "data:"))] == []


def restored(page, name, data):
    """Name and bytes of the download."""
    page.add((name, data))
    page.restore()
    return page.download()


def test_a_photo_is_restored_compared_blended_and_downloaded_also_offline(open_page, host):
    page = open_page()
    assert page.is_hidden("#api")
    assert "nothing is uploaded" in page.text("#place")
    pixels = noisy(72, 96)
    page.add(("cat.png", encode(pixels)))
    page.restore()
    page.shown()
    assert page.get_attribute("#after", "src").startswith("blob:")
    page.focus("#divider")
    page.keyboard.press("Home")
    assert page.get_attribute("#divider", "aria-valuenow") == "0"
    saved, data = page.download()
    assert saved == "cat-denoised.png"
    result = decode(data)
    assert difference(result, pixels) > 20
    assert difference(result, expected(pixels)) <= 1
    page.set_strength(40)
    assert page.evaluate("document.getElementById('after').style.opacity") == "0.4"
    assert difference(decode(page.download()[1]), expected(pixels, 0.4)) <= 1

    page.until(lambda: page.evaluate("navigator.serviceWorker.ready.then(({ active }) => active.state)") == "activated")
    host.stop()
    page.reload()
    page.ready()
    assert difference(decode(restored(page, "again.png", encode(pixels))[1]), result) == 0
    page.check("[name=task][value=derain]", force=True)  # whose weights nobody has fetched
    page.add(("rain.png", encode(pixels)))
    page.click("#act")
    page.wait_for_selector("li[data-state=failed]")


def test_a_display_p3_png_keeps_its_numbers_profile_and_text(open_page):
    # Decoded into sRGB, these colours would lie far outside or move by tens of levels.
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[:, :16], pixels[:, 16:32], pixels[:, 32:] = (255, 0, 0), (0, 255, 0), (30, 200, 90)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a wide gamut")
    profile = display_p3()
    page = open_page()
    _, data = restored(page, "wide.png", encode(pixels, icc_profile=profile, dpi=(300, 300), pnginfo=text))
    result = load(data)
    assert result.info["icc_profile"] == profile
    assert result.info["Title"] == "a wide gamut"
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert difference(np.asarray(result), expected(pixels)) <= 1
    page.select_option("#format", "jpeg")
    _, data = page.download()
    assert load(data).info["icc_profile"] == profile
    page.select_option("#format", "webp")
    _, data = page.download()
    assert load(data).info["icc_profile"] == profile


def test_a_jpeg_keeps_exif_orientation_profile_and_comment(open_page):
    pixels = noisy(40, 64)
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "a camera"  # stored lying on its side
    data = encode(pixels, "JPEG", quality=97, exif=exif, icc_profile=display_p3(), comment=b"hello", dpi=(72, 72))
    page = open_page()
    page.add(("side.jpg", data))
    page.restore()
    page.shown()
    assert "40 × 64" in page.text("#facts")  # upright for the viewer
    name, saved = page.download()
    result = load(saved)
    assert (name, result.format, result.size) == ("side-denoised.jpg", "JPEG", (64, 40))
    assert (result.getexif()[0x112], result.getexif()[0x10F]) == (6, "a camera")
    assert result.info["icc_profile"] == display_p3()
    assert result.info["comment"] == b"hello"
    assert result.info["dpi"] == (72, 72)
    reference = expected(decode(data))
    assert np.abs(np.asarray(result).astype(float) - reference).mean() < 3  # compressed once more
    assert page.locator("#notes li").count() == 0
    # In another format the pixels are upright, and the orientation says so.
    page.select_option("#format", "png")
    _, saved = page.download()
    result = load(saved)
    assert result.size == (40, 64)
    assert (result.getexif()[0x112], result.getexif()[0x10F]) == (1, "a camera")
    assert difference(np.asarray(result), np.rot90(reference, -1)) <= 2


def test_gray_and_translucent_images_keep_their_kind(open_page):
    page = open_page()
    gray = noisy(24, 32, 1)
    _, data = restored(page, "gray.png", encode(gray))
    result = load(data)
    assert result.mode == "L"
    assert difference(np.asarray(result)[..., None], expected(gray, model="denoise-gray")) <= 1
    alpha = np.dstack([noisy(24, 32), np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))])
    page.add(("glass.png", encode(alpha)))
    page.restore(2)
    result = decode(page.download()[1])
    assert np.array_equal(result[..., 3], alpha[..., 3])
    if "has no WebGL" not in page.text("#notes"):
        assert difference(result[..., :3], expected(alpha[..., :3])) <= 1
    page.select_option("#format", "jpeg")
    page.download()
    page.wait_for_selector("#notes li >> text=JPEG has no transparency")


def test_colour_and_detail_are_live_and_in_the_download(open_page):
    page = open_page()
    pixels = noisy(48, 64)
    page.add(("cat.png", encode(pixels)))
    page.restore()
    page.shown()
    page.fill("#look-colour", "30")
    page.fill("#look-detail", "70")
    result = decode(page.download()[1])
    assert difference(result, expected(pixels, 1.0, color_strength=0.3, detail=0.7)) <= 1
    assert difference(result, expected(pixels)) > 5


def test_webp_keeps_its_metadata(open_page):
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    data = encode(noisy(24, 32), "WEBP", lossless=True, exif=exif, icc_profile=display_p3(), xmp=b"<x:xmpmeta/>")
    page = open_page()
    name, saved = restored(page, "cat.webp", data)
    result = load(saved)
    assert (name, result.format) == ("cat-denoised.webp", "WEBP")
    assert result.info["icc_profile"] == display_p3()
    assert result.info["xmp"] == b"<x:xmpmeta/>"
    assert result.getexif()[0x10F] == "a camera"
    assert difference(np.asarray(result), expected(decode(data))) <= 1


def deep_png():
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(13))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def test_what_the_page_cannot_restore_is_refused_in_words(open_page):
    page = open_page()
    good = encode(noisy(24, 32))
    files = {
        "scan.tif": (encode(noisy(8, 8), "TIFF"), "is a TIFF file; this page restores PNG, JPEG and WebP"),
        "deep.png": (deep_png(), "has 16 bits per channel, which browsers reduce to 8"),
        "cut.png": (good[:-40], "is damaged: it ends too early"),
        "print.jpg": (cmyk(), "is in CMYK"),
        "notes.png": (b"These are notes.", "is not a PNG, JPEG or WebP image"),
    }
    for name, (data, _) in files.items():
        page.add((name, data))
    page.add(("good.png", good))
    page.click("#act")
    page.wait_for_selector("li[data-state=done]")
    for name, (_, words) in files.items():
        text = page.text(f"#queue li:has-text('{name}')")
        assert f"it {words}" in " ".join(text.split())


def cmyk():
    target = BytesIO()
    Image.new("CMYK", (8, 8)).save(target, "JPEG")
    return target.getvalue()


def test_progress_counts_tiles_and_stop_cancels(open_page):
    page = open_page()
    page.add(("large.png", encode(np.tile(noisy(64, 64), (11, 20, 1)))))  # several tiles
    page.click("#act")
    page.wait_for_selector("li[data-state=working] .state >> text=/[1-9][0-9]?%.* left|almost/")
    page.click("#act")  # Stop
    page.wait_for_selector("li[data-state=ready]")
    page.click("li .drop")
    page.add(("small.png", encode(noisy(24, 32))))
    page.restore()


def test_a_phone_restores(open_page):
    from page_driver import TOUCH

    page = open_page(device_scale_factor=2, **TOUCH)
    page.add(("cat.png", encode(noisy(60, 80))))
    page.restore()
    assert page.evaluate("document.documentElement.scrollWidth") <= TOUCH["viewport"]["width"]
    page.tap("#more")
    page.set_strength(50)
    assert page.is_visible("#download")


def test_the_page_itself_never_works_on_pixels(open_page):
    """Decoding, restoring and encoding of large photos take seconds: all of it belongs to workers."""
    page = open_page()
    page.evaluate("for (const name of ['OffscreenCanvas', 'CompressionStream', 'WebAssembly']) delete window[name]")
    page.add(("cat.png", encode(noisy(24, 32))))
    page.restore()
    page.set_strength(50)
    page.download()
    assert page.evaluate("typeof OffscreenCanvas") == "undefined"
