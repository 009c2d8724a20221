"""Photographs decoded: into 8 bits and channels, into memory or a cache on disk."""

import json
import logging

import numpy as np
import pytest
import torch
from numbered_photos import numbered

from kbnet.data import decode, decode_all, list_photos, photos, to_tensor
from kbnet.errors import ImageError, InvalidInputError, OutputError


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
        assert message.startswith("skipped: ")


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


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def exchange(cache):
    """Two photos of one size under each other's names."""
    one, two = sorted(cache.glob("*.npy"))[:2]
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def rewrite(cache, **values):
    manifest = cache / photos.MANIFEST
    entries = [json.loads(line) | values for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


DAMAGE = {
    "manifest missing": lambda cache: (cache / photos.MANIFEST).unlink(),
    "manifest of nonsense": lambda cache: (cache / photos.MANIFEST).write_bytes(b'\0\xff[1]\n{"file": []}\n7\n'),
    "of another version": lambda cache: rewrite(cache, version=1),
    "without shapes": lambda cache: rewrite(cache, shape=None),
    "with other shapes": lambda cache: rewrite(cache, shape=[1, 1, 3]),
    "arrays missing": lambda cache: [path.unlink() for path in cache.glob("*.npy")],
    "arrays empty": lambda cache: [path.write_bytes(b"") for path in cache.glob("*.npy")],
    "arrays cut": lambda cache: [cut(path) for path in cache.glob("*.npy")],
    "arrays exchanged": exchange,
    "arrays of zeros": lambda cache: [path.write_bytes(bytes(path.stat().st_size)) for path in cache.glob("*.npy")],
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_whatever_is_wrong_with_the_cache_the_photos_are_right(damage, write, tmp_path):
    rng = np.random.default_rng(0)
    paths = [write(f"{i}.png", rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for i in range(3)]
    expected, cache = decode_all(paths, 3), tmp_path / "cache"
    decode_all(paths, 3, memory=0, cache=cache)
    DAMAGE[damage](cache)
    for _ in range(2):
        assert same(decode_all(paths, 3, memory=0, cache=cache), expected)


def test_links_to_one_photo_do_not_get_into_each_others_way(many, tmp_path):
    """Their decoded form has one name, and is written by several threads at once."""
    links = []
    for number in range(40):
        links.append(tmp_path / f"link-{number}.png")
        links[-1].symlink_to(many[0])
    expected = decode_all([many[0]], 3)[many[0]]
    for turn in range(10):
        found = decode_all(links, 3, memory=0, cache=tmp_path / f"cache-{turn}")
        assert all(np.array_equal(found[link], expected) for link in links)
        assert len(list((tmp_path / f"cache-{turn}").iterdir())) == 2


def test_a_cache_on_a_full_disk_is_named(many, tmp_path, file_size_limit):
    cache = tmp_path / "cache"
    with file_size_limit(200), pytest.raises(OutputError, match=r"cache/.*\.npy: can't be written: file too large"):
        decode_all(many, 3, memory=0, cache=cache)
    assert [path.name for path in cache.iterdir()] in ([], [photos.MANIFEST])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/cache: can't be written"):
        decode_all(many, 3, memory=0, cache=tmp_path / "file" / "cache")


def test_a_link_in_the_cache_is_replaced_and_not_written_through(many, tmp_path):
    cache = tmp_path / "cache"
    decode_all(many, 3, memory=0, cache=cache)
    (tmp_path / "victim").write_bytes(b"precious")
    for path in cache.glob("*.npy"):
        path.unlink()
        path.symlink_to(tmp_path / "victim")
    assert same(decode_all(many, 3, memory=0, cache=cache), decode_all(many, 3))
    assert (tmp_path / "victim").read_bytes() == b"precious"
