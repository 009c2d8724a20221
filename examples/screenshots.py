"""Take the screenshots of the web page: docs/page/*.jpg.

    python examples/screenshots.py [--site build/web/site --out FOLDER]

Starts `kbnet serve` and drives Chromium, which tests/server/browser.py finds. docs/page/controls.json records the
controls in each screenshot; a test compares it with the page, so that outdated screenshots are noticed. With --site,
takes screenshots of the page that `make web` builds instead, at three sizes, without a record.
"""

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "server"))
from browser import FLAGS, chromium  # noqa: E402
from page_states import PHOTO, PICTURES, RECORD, SCHEMES, SIZES, arrange, describe  # noqa: E402

# The server estimates times after its first photo, so that "working" can show progress.
ORDER = ("done", "working", "empty", "error")


TABLET = {"viewport": {"width": 834, "height": 1112}, "has_touch": True}


def take(browser: Browser, url: str, state: str, size: str, scheme: str, folder: Path) -> dict[str, object]:
    """Take one screenshot and return what it shows. Retries if the work finishes before the screenshot."""
    while (shown := attempt(browser, url, state, size, scheme, folder)) is None:
        pass
    return shown


def attempt(browser: Browser, url: str, state: str, size: str, scheme: str, folder: Path) -> dict[str, object] | None:
    """Like `take`, or None if the work finished too early."""
    context = browser.new_context(
        color_scheme=scheme, locale="en", reduced_motion="reduce", **(SIZES | {"tablet": TABLET})[size]
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-kbnet=ready]")
    arrange(page, state, PHOTO.read_bytes())
    page.mouse.move(0, 0)  # no button in its hover state
    page.wait_for_timeout(100 if state == "working" else 500)  # for pending repaints
    target = folder / f"{state}-{size}-{scheme}.jpg"
    page.screenshot(path=target, type="jpeg", quality=75)
    shown = describe(page)
    held = state != "working" or page.is_visible("#busy")
    context.close()
    if not held:
        return None
    print(f"{target.name}, {target.stat().st_size / 1000:.0f} kB")
    return shown


@contextmanager
def serving(site: Path | None) -> Iterator[str]:
    """The address of `kbnet serve`, or of a host of static files."""
    serve = ["kbnet", "serve", "--port", "0"]
    host = ["http.server", "--bind", "127.0.0.1", "--directory", str(site), "0"]
    command = [sys.executable, "-u", "-m", *(host if site else serve)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        try:
            url = next(word for word in server.stdout.readline().split() if "http://" in word).strip("();")
            threading.Thread(target=server.stdout.read).start()  # or its log would fill the pipe
            yield url
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="folder of the page that restores in the browser")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder for the screenshots")
    options = parser.parse_args()
    if options.site and options.out == PICTURES:
        parser.error("--site needs --out")
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, object] = {}
    # A small photo is a single tile in the browser, so "working" shows no progress there.
    states = [state for state in ORDER if state != "working" or not options.site]
    sizes = [*SIZES, "tablet"] if options.site else list(SIZES)
    with serving(options.site) as url, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        for state in states:
            for size in sizes:
                for scheme in SCHEMES:
                    record[f"{state}-{size}"] = take(browser, url, state, size, scheme, options.out)
        browser.close()
    if not options.site:
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
