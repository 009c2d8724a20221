"""The states of the page that its screenshots show, and the controls visible in each."""

from pathlib import Path

PICTURES = Path(__file__).parents[2] / "docs" / "page"
RECORD = PICTURES / "controls.json"
PHOTO = Path(__file__).parents[2] / "examples" / "noisy.jpg"
STATES = ("empty", "working", "done", "error")
SCHEMES = ("light", "dark")
SIZES = {
    "laptop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    },
}
_CONTROLS = """() => [...document.querySelectorAll("button, input, select, a, [role=slider]")]
    .filter((one) => one.checkVisibility() && !one.disabled)
    .map((one) => (one.ariaLabel || one.labels?.[0]?.querySelector("span")?.textContent
                   || one.labels?.[0]?.firstChild?.textContent || one.querySelector(".name")?.textContent
                   || one.textContent).trim())"""


def arrange(page, state, photo):
    """Bring a page into one of STATES; `photo` is the bytes of a JPEG."""
    if state == "empty":
        return
    files = [("cat.jpg", photo)]
    if state == "error":
        files.append(("notes.jpg", b"These are notes, not a picture."))
    elif state == "working":
        files.append(("cat-2.jpg", photo))
    page.set_input_files("#files", [{"name": n, "mimeType": "image/jpeg", "buffer": data} for n, data in files])
    page.wait_for_selector("#canvas[data-shown]")
    page.click("#act")
    if state == "working":
        page.wait_for_selector("#busy-text >> text=/[1-9][0-9]%/")
        return
    page.wait_for_selector("li[data-state=done]")
    page.wait_for_selector("#after[src]")
    if state == "error":
        page.click("li[data-state=failed] .open")
        page.wait_for_selector("#blank:visible")


def describe(page):
    """The names of the usable controls, in order, and the top edge of the viewer."""
    top = page.evaluate("document.getElementById('viewer').getBoundingClientRect().top")
    return {"viewer_top": round(top), "controls": page.evaluate(_CONTROLS)}
