"""The web page as tests use it."""

import time
from pathlib import Path

from serving import PATIENCE

PHONE = {"width": 390, "height": 844}
TOUCH = {"viewport": PHONE, "is_mobile": True, "has_touch": True}


class Page:
    """A page of Playwright's, loaded, with what its users do; all else is Playwright's own."""

    def __init__(self, page, address, *, ready=True):
        self.page = page
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address)
        if ready:
            self.ready()

    def __getattr__(self, name):
        return getattr(self.page, name)

    def ready(self):
        """Wait until the page knows what the server offers, or asks for its key."""
        self.page.wait_for_selector("html[data-kbnet=ready], #key-dialog[open]")

    def add(self, *files):
        """Choose files, given as (name, bytes)."""
        chosen = [{"name": name, "mimeType": "image/x", "buffer": data} for name, data in files]
        self.page.set_input_files("#files", chosen)

    def shown(self):
        """Wait until the viewer shows the picture that is selected."""
        self.page.wait_for_selector("#queue li:has([aria-current])")
        number = self.page.get_attribute("#queue li:has([aria-current])", "data-item")
        self.page.wait_for_selector(f"#canvas[data-shown='{number}']")

    def restore(self, count=1):
        """Press the button, and wait until so many pictures are done."""
        self.page.click("#act")
        self.page.wait_for_selector(f"li[data-state=done] >> nth={count - 1}")

    def set_strength(self, percent):
        """Move the slider."""
        self.page.fill("#look-strength", str(percent))

    def download(self, button="#download"):
        """Press it; the file's name and bytes."""
        with self.page.expect_download() as download:
            self.page.click(button)
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def text(self, selector):
        """Of one element."""
        return self.page.inner_text(selector)

    def until(self, condition):
        """Wait for what the page will do; the page's own policy forbids Playwright's way."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            self.page.wait_for_timeout(30)

    def colour(self, x, y):
        """[r, g, b] at a point of the viewport, as it is seen."""
        from io import BytesIO

        from PIL import Image

        clip = {"x": x, "y": y, "width": 1, "height": 1}
        return list(Image.open(BytesIO(self.page.screenshot(clip=clip))).convert("RGB").getpixel((0, 0)))
