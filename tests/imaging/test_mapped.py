"""Pages of a mapped file are given back while a picture is written from it, and its pixels stay right."""

import sys
from pathlib import Path

import numpy as np
import pytest

from kbnet.imaging import read_photo
from kbnet.imaging._mapped import release
from kbnet.imaging.rows import RowFacts, write_rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident_in_file(path):
    """Kilobytes of a mapped file that are in this process's memory."""
    total, inside = 0, False
    with Path("/proc/self/smaps").open() as lines:
        for line in lines:
            if "-" in line.split()[0] and ":" not in line.split()[0]:
                inside = line.rstrip().endswith(str(path))
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1])
    return total


def test_pages_that_were_read_are_given_back_and_come_again(tmp_path):
    path = tmp_path / "rows.raw"
    np.arange(4 << 20, dtype=np.uint8).tofile(path)
    mapped = np.memmap(path, np.uint8, "r")
    before = int(mapped.sum())
    assert resident_in_file(path) > 2000
    assert release(path) == 4 << 20
    assert resident_in_file(path) < 500
    assert int(mapped.sum()) == before


def test_a_picture_written_from_rows_leaves_little_of_them_in_memory(tmp_path, monkeypatch):
    from kbnet.imaging import _mapped

    given = []
    monkeypatch.setattr(_mapped, "release", lambda path: given.append(release(path)))
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 1500, 3), np.uint8)
    raw = tmp_path / "rows.raw"
    pixels.tofile(raw)
    facts = RowFacts(
        format="tiff", width=1500, height=2000, channels=3, bands=3, dtype=np.dtype(np.uint8), orientation=1
    )  # fmt: skip
    write_rows(raw, facts, tmp_path / "out.tif")
    assert len(given) > 5
    assert max(given) > 0
    assert np.array_equal(read_photo(tmp_path / "out.tif").pixels, pixels)


def test_the_callback_lives_as_long_as_the_writing(tmp_path, run_python):
    """pyvips aborts the process if a signal finds its handle collected, here of an image that others are made from."""
    code = f"""
import gc
from pathlib import Path
import numpy as np, pyvips
from kbnet.imaging.rows import RowFacts, write_rows
extract = pyvips.Image.extract_band
def extract_and_collect(*arguments, **options):
    made = extract(*arguments, **options)
    gc.collect()
    return made
pyvips.Image.extract_band = extract_and_collect
raw = Path({str(tmp_path)!r}, "rows.raw")
rows = np.random.default_rng(0).integers(0, 256, (600, 500, 4), np.uint8)
for _ in range(3):
    rows.tofile(raw)
    facts = RowFacts("tiff", 500, 600, channels=3, bands=4, dtype=np.dtype(np.uint8), orientation=1, unspecified=True)
    write_rows(raw, facts, raw.with_name("out.png"), overwrite=True)
    [np.zeros(50) for _ in range(1000)]
"""
    assert run_python(code) == ""
