"""`kbnet inspect degradations`: a contact sheet, the same for the same seed, never over an existing file."""

import sys

import numpy as np
import pytest
from cli_files import names, picture

from kbnet.cli._sheet import SEVERITIES, Panel, degradation_panels
from kbnet.degradations import DEGRADATIONS
from kbnet.imaging import Photo, read_photo


@pytest.fixture
def photo(tmp_path):
    return picture(tmp_path / "photo.png", 40, 48)


def test_a_sheet_shows_every_kind_and_is_not_written_over(kbnet_, photo, tmp_path):
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    done = kbnet_("inspect", "degradations", photo, "-o", first, "--size", 32)
    assert (done.code, done.out, done.err) == (0, b"", f"contact sheet: {first}\n")
    sheet = read_photo(first).pixels
    columns = 1 + max(map(len, SEVERITIES.values()))
    assert sheet.shape[0] > len(SEVERITIES) * 32
    assert sheet.shape[1] > columns * 32
    assert 0.02 < (sheet < 128).mean() < 0.98
    assert kbnet_("inspect", "degradations", photo, "-o", second, "--size", 32).code == 0
    assert np.array_equal(sheet, read_photo(second).pixels)
    again = kbnet_("inspect", "degradations", photo, "-o", first, "--seed", 1, "--size", 32)
    assert (again.code, again.err.count("\n")) == (1, 1)
    assert "the file exists" in again.err
    assert np.array_equal(sheet, read_photo(first).pixels)
    assert kbnet_("inspect", "degradations", photo, "-o", first, "--seed", 1, "--overwrite", "--size", 32).code == 0
    assert not np.array_equal(sheet, read_photo(first).pixels)
    assert names(tmp_path) == ["a.png", "b.png", "photo.png"]


def test_by_default_the_sheet_lies_beside_the_photo(kbnet_, photo, tmp_path):
    pytest.importorskip("matplotlib")
    assert kbnet_("inspect", "degradations", photo, "--size", 16).code == 0
    assert names(tmp_path) == ["photo-degradations.png", "photo.png"]


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 3), (5, 9, 3)])
def test_panels_say_what_they_show(shape):
    photo = Photo(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    rows = degradation_panels(photo, seed=0, size=32)
    assert [row[0].title for row in rows] == list(DEGRADATIONS)
    sides = tuple(min(side, 32) for side in shape[:2])
    for row in rows:
        assert len(row) == 5
        for panel in row:
            assert isinstance(panel, Panel)
            assert panel.pixels.shape == sides + shape[2:]
        assert all(panel.title.endswith(" dB") for panel in row[1:])


def test_what_cannot_be_drawn_is_one_line(kbnet_, photo, tmp_path, monkeypatch):
    missing = kbnet_("inspect", "degradations", tmp_path / "none.png")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    nothing = kbnet_("inspect")
    assert (nothing.code, nothing.err) == (2, "kbnet: error: Missing command; see 'kbnet inspect --help'\n")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    without = kbnet_("inspect", "degradations", photo)
    assert without.code == 1
    assert "pip install 'kbnet[eval]'" in without.err
    assert names(tmp_path) == ["photo.png"]
