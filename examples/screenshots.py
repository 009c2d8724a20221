"""Take the screenshots of the web page: docs/page/*.jpg.

    python examples/screenshots.py

Starts `kbnet serve` and drives Chromium, which tests/server/browser.py finds. docs/page/controls.json records the
controls in each screenshot; a test compares it with the page, so that outdated screenshots are noticed.
"""

import json
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "server"))
from browser import FLAGS, chromium  # noqa: E402
from page_states import PHOTO, PICTURES, RECORD, SCHEMES, SIZES, arrange, describe  # noqa: E402

# The server estimates times after its first photo, so that "working" can show progress.
ORDER = ("done", "working", "empty", "error")


def take(browser: Browser, url: str, state: str, size: str, scheme: str) -> dict[str, object]:
    """Take one screenshot and return what it shows. Retries if the work finishes before the screenshot."""
    while (shown := attempt(browser, url, state, size, scheme)) is None:
        pass
    return shown


def attempt(browser: Browser, url: str, state: str, size: str, scheme: str) -> dict[str, object] | None:
    """Like `take`, or None if the work finished too early."""
    context = browser.new_context(color_scheme=scheme, locale="en", reduced_motion="reduce", **SIZES[size])
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-kbnet=ready]")
    arrange(page, state, PHOTO.read_bytes())
    page.mouse.move(0, 0)  # no button in its hover state
    page.wait_for_timeout(100 if state == "working" else 500)  # for pending repaints
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


if __name__ == "__main__":
    main()
