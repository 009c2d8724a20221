"""Take the README's pictures of the web page: docs/page.jpg and docs/page-phone.jpg.

Starts `kbnet serve` and drives Chromium, found as tests/server/browser.py finds it.
"""

import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "server"))
from browser import FLAGS, chromium  # noqa: E402


def take(page: Page, url: str, target: Path) -> None:
    """Restore the example and photograph the page."""
    page.goto(url)
    page.click("#kb-examples button >> nth=0")
    page.click("#kb-restore")
    page.wait_for_selector("li[data-state=done]")
    page.wait_for_selector("#kb-after[src]:not([hidden])")
    page.wait_for_timeout(500)
    page.screenshot(path=target, type="jpeg", quality=80, full_page=True)
    print(f"{target.name}, {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    command = [sys.executable, "-m", "kbnet", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = server.stderr.readline().split()[3].rstrip(";")
        try:
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
                wide = browser.new_page(viewport={"width": 900, "height": 800})
                take(wide, url, ROOT / "docs" / "page.jpg")
                phone = browser.new_context(
                    viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, has_touch=True
                )
                take(phone.new_page(), url, ROOT / "docs" / "page-phone.jpg")
                browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
