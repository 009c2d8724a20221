"""Take the pictures of the web page: docs/page/*.jpg, and docs/page.jpg and docs/page-phone.jpg for the README.

    python examples/screenshots.py

Starts `kbnet serve` and drives Chromium, found as tests/server/browser.py finds it. What each picture shows is recorded
in docs/page/controls.json; a test compares that with the page, so that the pictures cannot go stale unnoticed.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "server"))
from browser import FLAGS, chromium  # noqa: E402
from page_states import PHOTO, PICTURES, RECORD, SCHEMES, SIZES, arrange, describe  # noqa: E402

# How long a picture takes is known after the first, so that those at work show how far they are.
ORDER = ("done", "working", "empty", "error")
FOR_README = {"done-laptop-light": "page.jpg", "done-phone-light": "page-phone.jpg"}


def take(browser: Browser, url: str, state: str, size: str, scheme: str) -> dict[str, object]:
    """One picture; what it shows. Work that ends while it is photographed is done once more."""
    while (shown := attempt(browser, url, state, size, scheme)) is None:
        pass
    return shown


def attempt(browser: Browser, url: str, state: str, size: str, scheme: str) -> dict[str, object] | None:
    """As `take`, or None where the work ended too soon."""
    context = browser.new_context(color_scheme=scheme, locale="en", reduced_motion="reduce", **SIZES[size])
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-kbnet=ready]")
    arrange(page, state, PHOTO.read_bytes())
    page.mouse.move(0, 0)  # no button looks as if pointed at
    page.wait_for_timeout(100 if state == "working" else 500)  # for what is still being painted
    target = PICTURES / f"{state}-{size}-{scheme}.jpg"
    page.screenshot(path=target, type="jpeg", quality=75)
    shown = describe(page)
    held = state != "working" or page.is_visible("#busy")
    context.close()
    if not held:
        return None
    print(f"{target.name}, {target.stat().st_size / 1000:.0f} kB")
    return shown


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    record: dict[str, object] = {}
    command = [sys.executable, "-m", "kbnet", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[3].rstrip(";")
        try:
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
                for state in ORDER:
                    for size in SIZES:
                        for scheme in SCHEMES:
                            record[f"{state}-{size}"] = take(browser, url, state, size, scheme)
                browser.close()
        finally:
            server.terminate()
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, target in FOR_README.items():
        shutil.copyfile(PICTURES / f"{name}.jpg", ROOT / "docs" / target)


if __name__ == "__main__":
    main()
