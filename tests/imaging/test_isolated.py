"""Decoding in a child process, with limits."""

import numpy as np
import pytest
from test_heic import heic

from kbnet.errors import UnreadableImageError, UnsupportedImageError
from kbnet.imaging import isolated, read_photo
from kbnet.imaging.isolated import Isolation


def test_a_child_process_returns_the_same_pixels():
    data = heic(bits=8)
    apart = read_photo(data, isolation=Isolation())
    assert np.array_equal(apart.pixels, read_photo(data).pixels)
    assert apart.format == "heic"


def test_damage_is_named_as_in_this_process():
    data = bytearray(heic())
    at = data.index(b"mdat") + 20
    data[at : at + 400] = bytes(400)
    with pytest.raises(UnreadableImageError, match=r"^the image data: the HEIC file is truncated or damaged"):
        read_photo(bytes(data[:-500]), isolation=Isolation())


def test_too_much_memory_ends_only_the_child(monkeypatch):
    monkeypatch.setattr(isolated, "_BASE", 100_000_000)
    with pytest.raises(UnreadableImageError, match="damaged, or needs too much memory"):
        read_photo(heic(), isolation=Isolation(pixels=1))


def test_too_much_time_ends_only_the_child():
    with pytest.raises(UnsupportedImageError, match=r"took longer than 0\.01 seconds"):
        read_photo(heic(), isolation=Isolation(seconds=0.01))
