"""Metadata of images that are restored row by row."""

import metadata_files as made
import numpy as np
import picture_files as files
import pytest
import tifffile

from kbnet.imaging import read_photo
from kbnet.imaging.rows import open_rows, write_rows


@pytest.mark.parametrize("tags", [{}, {271: "maker"}])
def test_rows_of_a_turned_tiff_stay_turned_in_png(tmp_path, tags):
    source, target = tmp_path / "in.tif", tmp_path / "out.png"
    extra = [(tag, "s", 0, text, True) for tag, text in tags.items()]
    tifffile.imwrite(
        source, np.zeros((4, 6, 3), np.uint8), photometric="rgb", extratags=[(274, "H", 1, 6, True), *extra]
    )
    with open_rows(source) as reader:
        facts = reader.facts
        reader.read(0, facts.height).tofile(tmp_path / "rows.raw")
    assert write_rows(tmp_path / "rows.raw", facts, target) == ()
    assert read_photo(target).pixels.shape == read_photo(source).pixels.shape == (6, 4, 3)


def test_rows_of_a_channel_without_a_meaning_keep_it_in_tiff_alone(tmp_path):
    infrared = files.pattern(channels=4)
    (tmp_path / "in.tif").write_bytes(made.tiff(*made.geo(), pixels=infrared))
    with open_rows(tmp_path / "in.tif") as reader:
        facts = reader.facts
        reader.read(0, facts.height).tofile(tmp_path / "rows.raw")
    assert write_rows(tmp_path / "rows.raw", facts, tmp_path / "out.tif") == ()
    with tifffile.TiffFile(tmp_path / "out.tif") as opened:
        written = opened.pages[0]
        assert written.extrasamples == (0,)
        assert written.tags[33550].value == (0.5, 0.25, 0)
        np.testing.assert_array_equal(written.asarray(), infrared)
    lost = write_rows(tmp_path / "rows.raw", facts, tmp_path / "out.png")
    assert lost[0] == "the extra channel is not kept in PNG; TIFF keeps it"
    assert read_photo(tmp_path / "out.png").alpha is None
