"""Servers and browser pages that tests share."""

from importlib.util import find_spec

import pytest
from browser import FLAGS, chromium

if not all(find_spec(package) for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")):
    collect_ignore_glob = ["test_*.py"]  # the serve extra is not installed


@pytest.fixture(scope="module")
def inverting():
    from serving import Inverting

    return Inverting()


@pytest.fixture(scope="module")
def client(inverting):
    """A server that inverts pictures of at most 2000 pixels and 50 kB."""
    from serving import serving

    from kbnet.server import Limits

    with serving(inverting.provide, Limits(bytes=50_000, pixels=2000)) as client:
        yield client


@pytest.fixture(scope="module")  # Playwright's event loop is in the way of those of other tests
def browser():
    """Chromium, or a skip that says what is missing."""
    play = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if chromium() is None:
        pytest.skip("there is no Chromium on this machine: install the system's package chromium")
    with play.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def held():
    from serving import Inverting

    return Inverting()


@pytest.fixture(scope="module")
def server(held):
    """A server with the page, which inverts pictures of at most 3 megapixels."""
    from serving import serving

    from kbnet.server import Limits

    with serving(held.provide, Limits(pixels=3_000_000), page=True) as client:
        yield client


@pytest.fixture
def open_page(browser, server):
    """Open the page, in which nothing may go wrong and from which no request may leave the machine."""
    from page_driver import Page

    pages, wrong, asked = [], [], []

    def start(address=None, **options):
        options = {"viewport": {"width": 1000, "height": 800}, "locale": "en", "reduced_motion": "reduce"} | options
        page = browser.new_context(**options).new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: dialog.accept())
        pages.append(page)
        return Page(page, address or str(server.base_url))

    start.wrong = wrong
    yield start
    for page in pages:
        page.context.close()
    assert wrong == []
    assert asked
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "blob:"))] == []
