"""Photographs and the patches drawn from them."""

import logging

import numpy as np
import pytest
import torch

from kbnet.data import PhotoPatches, decode, list_photos, split, to_tensor
from kbnet.errors import ImageError, InvalidInputError
from kbnet.imaging import Photo, write_photo


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def write(folder, name, pixels):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(Photo(pixels), path)
    return path


def numbered(height=16, width=16):
    """A gray photo in which every pixel has a value of its own, so that a patch says where it is from."""
    return np.arange(height * width, dtype=np.uint8).reshape(height, width)


@pytest.fixture
def patches(tmp_path):
    return PhotoPatches([write(tmp_path, "numbered.png", numbered())], channels=1, smallest_side=4)


def test_photos_are_found_in_all_folders_in_the_order_of_their_paths(tmp_path):
    names = ["b/2.png", "b/1.PNG", "a.tiff", "c/d/e.jpg"]
    for name in names:
        write(tmp_path, name.lower(), numbered())
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "1.PNG")
    (tmp_path / "notes.txt").write_text("no photo")
    assert list_photos(tmp_path) == sorted(tmp_path / name for name in names)


def test_a_folder_without_photos_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InvalidInputError, match=f"found none in {tmp_path}"):
        list_photos(tmp_path)


@pytest.mark.parametrize(("count", "every"), [(1, 2), (2, 2), (10, 3), (41, 20)])
def test_a_split_gives_every_photo_to_one_side_and_every_nth_to_validation(count, every):
    paths = [f"{i}.png" for i in range(count)]
    training, held_out = split(paths, every)
    assert sorted(training + held_out) == sorted(paths)
    assert not set(training) & set(held_out)
    assert held_out == [f"{i}.png" for i in range(0, count, every)]


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    pixels = np.array([[0, 128, 129, 257, 32896, 65406, 65407, 65535]], np.uint16)
    decoded = decode(write(tmp_path, "deep.png", pixels), channels=1)
    assert decoded.tolist() == np.rint(pixels / 257).astype(int).tolist()


def test_colour_becomes_luma_for_a_gray_network(tmp_path):
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [10, 20, 30]]], np.uint8)
    decoded = decode(write(tmp_path, "colour.png", pixels), channels=1)
    assert decoded.tolist() == [[76, 150, 29, 255, 18]]  # 0.299, 0.587 and 0.114 of 255; 18.15


def test_gray_is_repeated_for_a_colour_network(tmp_path):
    decoded = decode(write(tmp_path, "gray.png", numbered()), channels=3)
    assert np.array_equal(decoded, np.repeat(numbered()[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_has_its_channels_first_and_lies_in_zero_to_one(channels):
    pixels = np.arange(4 * 5 * channels, dtype=np.uint8).reshape(4, 5, channels)
    tensor = to_tensor(pixels[..., 0] if channels == 1 else pixels)
    assert (tensor.shape, tensor.dtype) == ((channels, 4, 5), torch.float32)
    assert torch.equal(tensor, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_a_batch_is_a_function_of_its_generator(patches):
    first = patches.batch(8, 4, generator(1))
    assert (first.shape, first.dtype) == ((8, 1, 4, 4), torch.float32)
    torch.manual_seed(5)  # nothing else may count
    assert torch.equal(first, patches.batch(8, 4, generator(1)))
    assert not torch.equal(first, patches.batch(8, 4, generator(2)))


def turned(patch, turn):
    patch = np.rot90(patch, turn % 4)
    return patch[:, ::-1] if turn >= 4 else patch


def test_patches_are_cut_anywhere_and_turned_any_way_and_nothing_else(patches):
    drawn = (patches.batch(4000, 4, generator()) * 255).round().to(torch.uint8).numpy()[:, 0]
    photo = numbered()
    known = {
        turned(photo[top : top + 4, left : left + 4], turn).tobytes(): (top, left, turn)
        for top in range(13)
        for left in range(13)
        for turn in range(8)
    }
    seen = [known[patch.tobytes()] for patch in drawn]  # a patch of any other kind would be a KeyError
    for axis, values in ((0, 13), (1, 13), (2, 8)):
        counts = np.bincount([place[axis] for place in seen], minlength=values)
        assert counts.min() > 0.7 * 4000 / values  # borders and every turn as often as the rest


def test_a_photo_of_just_the_size_of_a_patch_is_used_whole(tmp_path):
    photos = PhotoPatches([write(tmp_path, "small.png", numbered(4, 4))], channels=1, smallest_side=4)
    drawn = (photos.batch(20, 4, generator()) * 255).round()
    assert (drawn.flatten(1).sort(dim=1).values == torch.arange(16.0)).all()


def test_larger_photos_are_drawn_from_in_proportion_to_their_pixels(tmp_path):
    small = write(tmp_path, "small.png", np.zeros((10, 10), np.uint8))
    large = write(tmp_path, "large.png", np.full((30, 10), 255, np.uint8))
    drawn = PhotoPatches([small, large], channels=1, smallest_side=4).batch(4000, 4, generator())
    assert drawn.mean() == pytest.approx(0.75, abs=0.03)


def test_a_damaged_photo_is_named_and_left_out(tmp_path, caplog):
    good = write(tmp_path, "good.png", numbered())
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("not a photo")
    paths = list_photos(tmp_path)
    with caplog.at_level(logging.WARNING, "kbnet"):
        photos = PhotoPatches(paths, channels=1, smallest_side=4)
    assert len(photos.photos) == 1
    assert len(caplog.messages) == 2
    for name, message in zip(("cut.png", "text.jpg"), caplog.messages, strict=True):
        assert message.startswith("left out: ")
        assert name in message


def test_a_photo_smaller_than_a_patch_is_named_and_left_out(tmp_path, caplog):
    paths = [write(tmp_path, "good.png", numbered()), write(tmp_path, "narrow.png", numbered(16, 7))]
    with caplog.at_level(logging.WARNING, "kbnet"):
        assert len(PhotoPatches(paths, channels=3, smallest_side=8).photos) == 1
    (message,) = caplog.messages
    assert "narrow.png is 7x16, under a patch's 8" in message


def test_no_usable_photo_at_all_is_an_error(tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(InvalidInputError, match="expected photos of at least 8 pixels a side, found none"):
        PhotoPatches([tmp_path / "text.jpg"], channels=3, smallest_side=8)


def test_decoding_a_damaged_photo_is_an_image_error(tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(ImageError):
        decode(tmp_path / "text.jpg", 3)
