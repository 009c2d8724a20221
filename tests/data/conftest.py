"""Photographs on disk."""

import pytest
from numbered_photos import numbered

from kbnet.imaging import Photo, write_photo


@pytest.fixture
def write(tmp_path):
    """write("a/b.png", pixels=None, folder=tmp_path) -> the path of a photo, a numbered one if no pixels are given."""

    def write_(name, pixels=None, folder=tmp_path):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        pixels = numbered() if pixels is None else pixels
        if path.suffix.isupper():
            write_photo(Photo(pixels), path.with_suffix(path.suffix.lower()))
            path.with_suffix(path.suffix.lower()).rename(path)
        else:
            write_photo(Photo(pixels), path)
        return path

    return write_
