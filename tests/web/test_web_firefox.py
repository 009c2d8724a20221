"""The page that restores in the browser, in the system's Firefox."""

import numpy as np
import pytest
from browser import firefox
from photos import decode, difference, encode, expected, noisy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def browser(host, tmp_path):
    """Firefox with the page; nothing may leave the page's origin."""
    from bidi import Firefox

    if firefox() is None:
        pytest.skip("there is no Firefox on this machine: install the system's package firefox-esr")
    browser = Firefox(firefox(), tmp_path)
    browser.open(host.address + "/")
    yield browser
    browser.close()
    asked = [url for url in browser.asked if url.startswith("http")]
    assert asked
    assert [url for url in asked if not url.startswith(host.address + "/")] == []
    assert [text for text in browser.said if "Security" in text] == []


def restored(browser, tmp_path, name, data):
    """Restore a file with the page as it is."""
    browser.until("document.documentElement.dataset.kbnet === 'ready'")
    (tmp_path / name).write_bytes(data)
    browser.choose("#files", tmp_path / name)
    browser.run("document.getElementById('act').click()")
    browser.until("Boolean(document.querySelector('li[data-state=failed], li[data-state=done]'))")
    assert browser.run("document.querySelector('li[data-state=failed]')?.innerText") is None
    browser.until("Boolean(document.querySelector('#after[src]')?.naturalWidth)")


def set_strength(browser, percent):
    browser.run(
        f"""(() => {{ const slider = document.getElementById('look-strength'); slider.value = {percent};
        slider.dispatchEvent(new Event('input')); }})()"""
    )


def test_a_photo_is_restored_compared_blended_and_downloaded_also_offline(browser, host, tmp_path):
    pixels = noisy(72, 96)
    restored(browser, tmp_path, "cat.png", encode(pixels))
    home = "new KeyboardEvent('keydown', {key: 'Home', bubbles: true})"
    browser.run(f"document.getElementById('divider').dispatchEvent({home})")
    assert browser.run("document.getElementById('divider').getAttribute('aria-valuenow')") == "0"
    name, data = browser.download("#download")
    assert name == "cat-denoised.png"
    result = decode(data)
    assert difference(result, pixels) > 20
    assert difference(result, expected(pixels)) <= 1
    set_strength(browser, 40)
    assert browser.run("document.getElementById('after').style.opacity") == "0.4"
    assert difference(decode(browser.download("#download")[1]), expected(pixels, 0.4)) <= 1

    browser.until("navigator.serviceWorker.ready.then(({ active }) => active.state === 'activated')")
    host.stop()
    browser.reload()
    restored(browser, tmp_path, "again.png", encode(pixels))
    assert np.array_equal(decode(browser.download("#download")[1]), result)


def test_colours_and_orientation_are_those_of_the_file(browser, tmp_path):
    from photos import display_p3, load
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:, :32], pixels[:20, 32:] = (255, 0, 0), (30, 200, 90)
    data = encode(pixels, icc_profile=display_p3(), exif=exif)
    restored(browser, tmp_path, "wide.png", data)
    result = load(browser.download("#download")[1])
    assert result.size == (64, 40)
    assert result.getexif()[0x112] == 6
    assert result.info["icc_profile"] == display_p3()
    assert difference(np.asarray(result), expected(pixels)) <= 1
    alpha = np.dstack([noisy(24, 32), np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))])
    browser.run("document.querySelector('li .drop').click()")
    restored(browser, tmp_path, "glass.png", encode(alpha))
    result = decode(browser.download("#download")[1])
    assert np.array_equal(result[..., 3], alpha[..., 3])
    if "has no WebGL" not in browser.run("document.getElementById('notes').innerText"):
        assert difference(result[..., :3], expected(alpha[..., :3])) <= 1
