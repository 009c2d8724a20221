"""The report's page: whole in itself, the worst first, what got worse marked."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from evaluation_files import texture

from kbnet.errors import OutputExistsError
from kbnet.evaluation import Pictures, Row, Sample
from kbnet.evaluation.report import FLAGGED, LOWEST, Gallery, flagged, lowest, wanted_names, write_report
from kbnet.evaluation.rows import summarise
from kbnet.imaging import read_photo

RESULTS = {
    "title": "pairs",
    "protocol": "measured <so> & so",
    "limit": None,
    "facts": {"command": "kbnet evaluate", "backends": ["native"]},
    "settings": {"model": "nano", "set": "mine", "context": "local"},
    "seconds_per_megapixel": 1.25,
}


def row(number, before=25.0, after=30.0):
    return Row(f"all/{number}", str(number), ("all",), 20, 16, {"psnr": before}, {"psnr": after}, 0.5)


def pictures(seed=0):
    clean = texture(16, 20, seed=seed)
    image = clean.astype(np.float32) / 255
    return Pictures(image + np.float32(0.1), image, clean)


def page(tmp_path, rows, gallery):
    means = summarise(rows)
    results = RESULTS | {
        "means": means,
        "worse_than_input": [r.name for r in rows if r.worse],
        "failed": [r.name for r in rows if r.error],
    }
    write_report(tmp_path / "report.html", results, rows, gallery)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def some():
    rows = [
        row(1, after=31),
        row(2, after=24.5),
        row(3, after=28),
        Row("all/<4>", "<4>", ("all",), error="broken & gone"),
    ]
    gallery = Gallery()
    for number, one in enumerate(rows[:3]):
        gallery.offer(one, pictures(number))
    return rows, gallery


class Addresses(HTMLParser):
    """Everything that a browser would load, and the ids there are."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "data-target")]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_nothing_from_anywhere_and_is_well_formed(some, tmp_path):
    text = page(tmp_path, *some)
    parsed = Addresses(text)
    assert parsed.open == []
    assert parsed.found
    assert {address.partition(",")[0] for address in parsed.found} == {"data:image/jpeg;base64", "data:"}
    outside = re.sub(r"data:image/jpeg;base64,[^\"]+", "", text)
    assert re.findall(r"//|@import|url\(|fetch\(|<iframe|<object", outside) == []
    assert len(parsed.ids) == len(set(parsed.ids))


def test_pictures_are_those_of_the_row(some, tmp_path):
    text = page(tmp_path, *some)
    shown = re.search(r'<img class="right" src="data:image/jpeg;base64,([^"]+)" alt="all/2, restored">', text)
    decoded = read_photo(base64.b64decode(shown[1])).pixels
    assert np.abs(decoded.astype(int) - texture(16, 20, seed=1)).mean() < 3


def test_the_lowest_come_first_and_what_got_worse_is_marked(some, tmp_path):
    text = page(tmp_path, *some)
    order = re.findall(r'<figure id="lowest-\d+">\s*<figcaption><strong>([^<]+)', text)
    assert order == ["all/2", "all/3", "all/1"]
    assert "1 of 4 are worse than their input" in text
    assert text.count("⚠ worse than its input") == 1
    assert "Worse than their input (" not in text  # it is shown above
    assert re.findall(r'<tr class="worse">\s*<td data-value="([^"]+)"', text) == ["all/2"]


def test_what_got_worse_is_shown_though_others_are_lower(tmp_path):
    gallery = Gallery()
    rows = [row(number, 10, 20) for number in range(12)] + [row(12, 40, 39), row(13, 41, 35)]
    for one in rows:
        gallery.offer(one, pictures())
    text = page(tmp_path, rows, gallery)
    assert len(re.findall('<figure id="lowest-', text)) == 10
    order = re.findall(r'<figure id="worse-\d+">\s*<figcaption><strong>([^<]+)', text)
    assert order == ["all/13", "all/12"]
    assert "Worse than their input (2)" in text


def test_what_failed_is_named_and_markup_in_names_stays_text(some, tmp_path):
    text = page(tmp_path, *some)
    assert "1 failed: all/&lt;4&gt;" in text
    assert "broken &amp; gone" in text
    assert "measured &lt;so&gt; &amp; so" in text
    assert "<4>" not in text


def test_sliders_and_heads_can_be_used_by_keyboard(some, tmp_path):
    text = page(tmp_path, *some)
    assert len(re.findall(r'<input type="range"[^>]*aria-label="[^"]+"', text)) == text.count("<figure") == 3
    heads = re.search(r'<table id="rows">.*?</thead>', text, re.DOTALL)[0]
    assert heads.count("<th ") == heads.count("<button") == 6


def test_a_page_without_scores_shows_the_first_pictures(tmp_path):
    rows = [Row(f"all/{n}", str(n), ("all",), 20, 16, seconds=0.1) for n in range(3)]
    gallery = Gallery()
    for one in rows:
        gallery.offer(one, Pictures(pictures().input, pictures().output, None))
    text = page(tmp_path, rows, gallery)
    assert "The first 3" in text
    assert "worse" not in text.partition("<main>")[2].partition("<script>")[0]


def test_only_pictures_that_may_be_shown_are_kept():
    gallery = Gallery()
    rng = np.random.default_rng(0)
    rows = [row(number, before=20, after=float(psnr)) for number, psnr in enumerate(rng.uniform(15, 40, 200))]
    for one in rows:
        gallery.offer(one, pictures())
        assert len(gallery.pictures) <= LOWEST + FLAGGED
    assert gallery.pictures.keys() == wanted_names(rows)
    assert [r.output["psnr"] for r in lowest(rows)] == sorted(r.output["psnr"] for r in rows)[:LOWEST]
    assert all(r.worse for r in flagged(rows))


def test_pictures_of_rows_from_before_an_interruption_are_made_again():
    rows = [row(1, after=24), row(2, after=29)]
    sample = Sample("1", ("all",), lambda: (pictures(7).input, pictures(7).target), ())
    gallery = Gallery()
    gallery.offer(rows[1], pictures())
    asked = []
    gallery.complete(rows, {"all/1": sample}, lambda image: asked.append(1) or image)
    assert gallery.pictures.keys() == {"all/1", "all/2"}
    assert asked == [1]


def test_a_page_that_appeared_during_the_work_is_not_replaced_unless_asked(some, tmp_path):
    page(tmp_path, *some)
    (tmp_path / "report.html").write_text("precious")
    with pytest.raises(OutputExistsError, match="the file exists"):
        page(tmp_path, *some)
    assert (tmp_path / "report.html").read_text() == "precious"
