"""Who can use the page, and what the page can do: keyboard, screen reader, policy."""

import pytest
from page_driver import TOUCH
from serving import picture

pytestmark = pytest.mark.slow

SIZES = {"laptop": {"viewport": {"width": 1280, "height": 800}}, "phone": TOUCH}


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page.page).response["violations"]
    return [(one["id"], [node["target"] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing_in_any_state(open_page, held, size, scheme):
    page = open_page(color_scheme=scheme, **SIZES[size])
    assert violations(page) == []
    held.gate.clear()
    try:
        page.add(("cat.png", picture(60, 80)[1]), ("bad.png", b"no picture"), ("third.png", picture(60, 80)[1]))
        page.shown()
        if size == "phone":
            page.tap("#more")
        page.click("#act")
        page.wait_for_selector("li[data-state=working]")
        assert violations(page) == []
    finally:
        held.gate.set()
    page.wait_for_selector("li[data-state=done] >> nth=1")
    assert violations(page) == []
    page.click("li[data-state=failed] .open")
    assert violations(page) == []


def test_axe_finds_nothing_on_the_page_of_the_api(open_page, server):
    page = open_page()
    page.goto(f"{server.base_url}docs")
    assert "POST /v1/restore" in page.text("main")
    assert violations(page) == []


def test_everything_is_reached_by_the_tab_key_and_the_focus_is_kept(open_page):
    page = open_page()
    page.add(("cat.png", picture(20, 30)[1]), ("dog.png", picture(20, 30)[1]))
    page.restore(2)
    page.until(lambda: page.is_hidden("#act"))
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.name"
            )
        )
    wanted = {"add", "camera", "paste", "canvas", "divider", "zoom-in", "zoom-out", "zoom-fit", "zoom-one"}
    wanted |= {"open", "drop", "download-all", "task", "look-strength", "format", "download"}
    assert wanted <= reached
    page.focus("li >> nth=0 >> .drop")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent.includes('dog.png')")  # not lost with the row
    assert page.get_attribute("#said", "role") == "status"
    assert page.get_attribute("html", "lang") == "en"


def focused(page):
    return page.evaluate("document.activeElement.id")


def test_the_focus_moves_on_from_buttons_that_disappear_and_stays_while_saving(open_page, held):
    page = open_page()
    page.add(("cat.png", picture(20, 30)[1]))
    held.gate.clear()
    try:
        page.focus("#act")
        page.keyboard.press("Enter")
        page.until(lambda: page.text("#act") == "Stop")
        assert focused(page) == "act"
    finally:
        held.gate.set()
    page.until(lambda: page.is_hidden("#act"))
    assert focused(page) == "download"
    page.set_strength(50)
    page.focus("#download")
    page.evaluate(
        """{ window.seen = []; new MutationObserver(() => window.seen.push([download.ariaDisabled,
        document.activeElement.id])).observe(download, { attributes: true, attributeFilter: ["aria-disabled"] }); }"""
    )
    with page.expect_download():
        page.keyboard.press("Enter")
    page.until(lambda: page.get_attribute("#download", "aria-disabled") == "false")
    seen = page.evaluate("seen")
    assert ["true", "download"] in seen
    assert {focus for _, focus in seen} == {"download"}
    assert focused(page) == "download"


def test_aria_is_there_in_browsers_without_its_properties(open_page):
    page = open_page()
    page.evaluate("for (const name in Element.prototype) if (name.startsWith('aria')) delete Element.prototype[name]")
    page.add(("cat.png", picture(20, 30)[1]))
    page.restore()
    page.shown()
    page.focus("#divider")
    page.keyboard.press("Home")
    assert page.get_attribute("#divider", "aria-valuenow") == "0"
    assert page.get_attribute("#divider", "aria-valuetext") == "0% before, 100% after"
    assert page.get_attribute("#zoom-fit", "aria-pressed") == "true"
    assert page.get_attribute("li .open", "aria-current") == "true"
    assert page.get_attribute("li .drop", "aria-label") == "Remove cat.png"


def test_the_page_may_talk_to_nobody_else(server, open_page):
    policy = server.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert all(word in ("'self'", "'none'", "blob:") for part in policy.split("; ") for word in part.split()[1:])
    page = open_page()
    assert page.title() == "kbnet"
    assert page.text("#top").count("Processed on the computer running kbnet") == 1
    assert page.evaluate("fetch('https://example.com/').then(() => 'sent', () => 'blocked')") == "blocked"
    assert open_page.wrong
    open_page.wrong.clear()


def test_the_pages_files_are_served_and_no_others(server):
    for path in ("/", "/page/page.css", "/page/js/main.js", "/page/mark.svg", "/favicon.ico", "/docs.css"):
        reply = server.get(path)
        assert reply.status_code == 200, path
        assert reply.headers["cache-control"] == "no-cache"
    assert server.get("/favicon.ico").headers["content-type"].startswith("image/svg")
    for path in ("/page/../page.py", "/page/..%2f..%2fpage.py", "/page/%2e%2e/page.py", "/page/", "/page/none.js"):
        reply = server.get(path)
        assert reply.status_code == 404, path
        assert list(reply.json()) == ["error"]
