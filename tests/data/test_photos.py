"""Photographs decoded: into 8 bits and channels, into memory or a cache on disk."""

import json
import logging

import numpy as np
import pytest
import torch
from numbered_photos import numbered

from kbnet.data import decode, decode_all, list_photos, photos, to_tensor
from kbnet.errors import ImageError, InvalidInputError


def test_sixteen_bits_are_rounded_to_eight(write):
    pixels = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
    decoded = decode(write("deep.png", pixels), channels=1)
    assert decoded.tolist() == np.rint(pixels / 257).astype(int).tolist()


def test_colour_becomes_luma_for_a_gray_network(write):
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 20, 30]]], np.uint8)
    decoded = decode(write("colour.png", pixels), channels=1)
    assert decoded.tolist() == [[76, 150, 29, 255, 18]]  # 0.299, 0.587 and 0.114 of 255; 18.15


def test_gray_is_repeated_for_a_colour_network(write):
    decoded = decode(write("gray.png"), channels=3)
    assert np.array_equal(decoded, np.repeat(numbered()[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_has_its_channels_first_and_lies_in_zero_to_one(channels):
    pixels = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
    tensor = to_tensor(pixels[..., 0] if channels == 1 else pixels)
    assert (tensor.shape, tensor.dtype) == ((channels, 4, 5), torch.float32)
    assert torch.equal(tensor, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_decoding_a_damaged_photo_is_an_image_error(tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(ImageError):
        decode(tmp_path / "text.jpg", 3)


@pytest.mark.parametrize("memory", [None, 0])
def test_a_damaged_photo_is_named_and_left_out(memory, tmp_path, write, caplog):
    good = write("good.png")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("not a photo")
    paths = [*list_photos(tmp_path), tmp_path / "gone.png"]
    with caplog.at_level(logging.WARNING, "kbnet"):
        found = decode_all(paths, 1, memory=memory, cache=tmp_path / "cache")
    assert list(found) == paths
    assert [path.name for path in paths if found[path] is None] == ["cut.png", "text.jpg", "gone.png"]
    assert np.array_equal(found[good], numbered())
    assert len(caplog.messages) == 3
    for name in ("cut.png", "text.jpg", "gone.png"):
        (message,) = [message for message in caplog.messages if name in message]
        assert message.startswith("left out: ")


@pytest.fixture
def many(write):
    """Four colour photos of different sizes."""
    rng = np.random.default_rng(0)
    return [write(f"{i}.png", rng.integers(0, 256, (8 + i, 9, 3), dtype=np.uint8)) for i in range(4)]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


@pytest.mark.parametrize("channels", [1, 3])
def test_photos_are_the_same_from_memory_and_from_the_cache(channels, many, tmp_path):
    cached = decode_all(many, channels, memory=8 * 9 * channels, cache=tmp_path / "cache")
    assert same(cached, decode_all(many, channels))
    assert all(isinstance(pixels, np.memmap) for pixels in cached.values())


def test_photos_that_just_fit_are_kept_in_memory(many, tmp_path):
    needed = sum((8 + i) * 9 * 3 for i in range(4))
    assert not any(isinstance(p, np.memmap) for p in decode_all(many, 3, memory=needed, cache=tmp_path / "c").values())
    assert not (tmp_path / "c").exists()
    with pytest.raises(InvalidInputError, match=r"more than the .* GiB allowed"):
        decode_all(many, 3, memory=needed - 1)


def count_decodes(monkeypatch):
    decoded, real = [], photos.decode
    monkeypatch.setattr(photos, "decode", lambda path, channels: (decoded.append(path.name), real(path, channels))[1])
    return decoded


def test_the_cache_is_built_once_and_again_for_photos_that_changed(many, write, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = decode_all(many, 3, memory=0, cache=cache)
    decoded = count_decodes(monkeypatch)
    assert same(decode_all(many, 3, memory=0, cache=cache), first)
    assert decoded == []
    write("1.png", np.zeros((20, 20, 3), np.uint8))
    again = decode_all(many, 3, memory=0, cache=cache)
    assert decoded == ["1.png"]
    assert again[many[1]].shape == (20, 20, 3)
    decode_all(many, 1, memory=0, cache=cache)  # another kind of decoding
    assert sorted(decoded[1:]) == [f"{i}.png" for i in range(4)]


def test_a_build_that_was_cut_off_goes_on_and_damage_is_repaired(many, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    expected = decode_all(many, 3)
    decode_all(many, 3, memory=0, cache=cache)
    manifest = cache / photos.MANIFEST
    files = {entry["photo"]: entry["file"] for entry in map(json.loads, manifest.read_text().splitlines())}
    lines = {json.loads(line)["photo"]: line for line in manifest.read_text().splitlines()}
    # Killed in the middle of the line of 2.png, before 3.png; 1.png was damaged afterwards.
    manifest.write_text(f"{lines['0.png']}\n{lines['1.png']}\n{lines['2.png'][:30]}")
    (cache / files["1.png"]).write_bytes(b"not an array")
    decoded = count_decodes(monkeypatch)
    assert same(decode_all(many, 3, memory=0, cache=cache), expected)
    assert sorted(decoded) == ["1.png", "2.png", "3.png"]
    assert same(decode_all(many, 3, memory=0, cache=cache), expected)
    assert len(decoded) == 3
    assert [path.name for path in cache.iterdir() if path.name.startswith(".")] == []
