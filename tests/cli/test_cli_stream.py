"""`kbnet restore --stream`: the same picture as without, larger ones than the limit, and what is refused."""

import numpy as np
from cli_files import names, picture

from kbnet.imaging import read_photo


def test_a_streamed_result_is_that_of_memory(restore, tmp_path):
    source = picture(tmp_path / "in" / "a.png", 150, 200)
    options = ("--tile", 64, "--overlap", 16)
    assert restore(source, "-o", tmp_path / "out" / "memory.tif", *options).code == 0
    done = restore(source, "-o", tmp_path / "out" / "rows.tif", "--stream", *options)
    assert done.code == 0, done.err
    assert "200×150" in done.err
    memory, rows = (read_photo(tmp_path / "out" / f"{name}.tif").pixels.astype(int) for name in ("memory", "rows"))
    assert np.abs(memory - rows).max() <= 1
    assert names(tmp_path / "out") == ["memory.tif", "rows.tif"]


def test_pictures_over_the_limit_are_told_of_streaming_which_has_none(restore, tmp_path, monkeypatch):
    source = picture(tmp_path / "a.png", 40, 50)
    done = restore(source, "-o", tmp_path / "b.png", "--max-pixels", 100)
    assert done.code == 1
    assert "use --stream, which has no limit" in done.err
    monkeypatch.setattr("kbnet.imaging.DEFAULT_MAX_PIXELS", 100)
    assert restore(source, "-o", tmp_path / "b.png").code == 1
    assert restore(source, "-o", tmp_path / "b.png", "--stream").code == 0
    assert restore(source, "-o", tmp_path / "c.png", "--stream", "--max-pixels", 100).code == 1


def test_pipes_and_other_formats_are_refused(restore, tmp_path):
    source = picture(tmp_path / "a.png")
    done = restore(source, "-o", "-", "--stream")
    assert (done.code, done.out) == (2, b"")
    assert "needs files, not a pipe" in done.err
    done = restore(source, "-o", tmp_path / "b.jpg", "--stream")
    assert done.code == 1
    assert "expected an output name ending in .tif, .tiff or .png" in done.err
    assert names(tmp_path) == ["a.png"]
