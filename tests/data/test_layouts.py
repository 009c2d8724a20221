"""Which files belong together, in each published layout, and what is held out."""

import logging

import pytest

from kbnet.data import LAYOUTS, Item, find_items, hold_out, list_photos
from kbnet.errors import InvalidInputError


def names(items, folder):
    return [(i.clean.relative_to(folder).as_posix(), i.degraded.relative_to(folder).as_posix()) for i in items]


def test_photos_are_found_in_all_folders_in_the_order_of_their_paths(tmp_path, write):
    paths = [write(name) for name in ["b/2.png", "b/1.PNG", "a.tiff", "c/d/e.jpg"]]
    (tmp_path / "notes.txt").write_text("no photo")
    assert list_photos(tmp_path) == sorted(paths)
    assert find_items(tmp_path, "photos") == [Item(path) for path in sorted(paths)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_without_photos_is_refused_in_one_line(layout, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InvalidInputError, match=str(tmp_path)) as caught:
        find_items(tmp_path, layout)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_is_not_there_is_refused(layout, tmp_path):
    with pytest.raises(InvalidInputError, match=r"expected a folder, got .*gone"):
        find_items(tmp_path / "gone", layout)


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="one of photos, pairs, sidd, sensenoise, rain13k, dpdd; got 'gopro'"):
        find_items(tmp_path, "gopro")


def test_pairs_have_the_same_names_whatever_the_suffix(tmp_path, write):
    for name in ("input/2.jpg", "target/2.png", "input/a/1.png", "target/a/1.png"):
        write(name)
    expected = [("target/2.png", "input/2.jpg"), ("target/a/1.png", "input/a/1.png")]
    assert names(find_items(tmp_path, "pairs"), tmp_path) == expected


def test_pictures_without_a_partner_are_counted_and_the_first_ones_named(tmp_path, write, caplog):
    for name in ("input/both.png", "target/both.png", "target/alone.png"):
        write(name)
    for index in range(8):
        write(f"input/only{index}.png")
    with caplog.at_level(logging.WARNING, "kbnet"):
        assert len(find_items(tmp_path, "pairs")) == 1
    inputs, targets = caplog.messages
    assert inputs.startswith(f"skipped: 8 without a partner in {tmp_path}: input/only0.png, input/only1.png")
    assert inputs.endswith("input/only4.png and 3 more")
    assert targets.endswith(": target/alone.png")


def test_pairs_of_which_none_match_are_refused(tmp_path, write):
    write("input/rain-1.png")
    write("target/norain-1.png")
    with pytest.raises(InvalidInputError, match=r"found none in common; 1 like rain-1.png and 1 like norain-1.png"):
        find_items(tmp_path, "pairs")


def test_half_of_a_pairs_folder_is_refused(tmp_path, write):
    write("input/1.png")
    with pytest.raises(InvalidInputError, match=r"expected input and target in .*, found no .*target"):
        find_items(tmp_path, "pairs")


@pytest.mark.parametrize("root", ["", "Rain13K/", "train/Rain13K/"])
def test_rain13k_is_found_from_any_of_its_folders(root, tmp_path, write):
    for name in ("input/1.jpg", "target/1.jpg"):
        write(root + name)
    assert names(find_items(tmp_path, "rain13k"), tmp_path) == [(f"{root}target/1.jpg", f"{root}input/1.jpg")]


def test_sidd_is_matched_within_its_folders_and_grouped_by_scene(tmp_path, write, caplog):
    first, second = "Data/0001_001_S6_00100_00060_3200_L", "Data/0002_001_S6_00100_00020_3200_N"
    third = "Data/0003_002_GP_00100_00060_3200_L"
    for name in (
        f"{first}/0001_NOISY_SRGB_010.PNG",
        f"{first}/0001_GT_SRGB_010.PNG",
        f"{first}/0001_NOISY_SRGB_011.PNG",
        f"{first}/0001_GT_SRGB_011.PNG",
        f"{second}/NOISY_SRGB_010.PNG",  # as in SIDD-Small
        f"{second}/GT_SRGB_010.PNG",
        f"{third}/0003_GT_SRGB_010.PNG",
        f"{third}/0003_NOISY_SRGB_010.PNG",
        f"{third}/0003_NOISY_SRGB_011.PNG",
        f"{third}/other.png",
    ):
        write(name)
    with caplog.at_level(logging.WARNING, "kbnet"):
        items = find_items(tmp_path, "sidd")
    assert caplog.messages == [f"skipped: 1 without a partner in {tmp_path}: {third}/0003_NOISY_SRGB_011.PNG"]
    assert names(items, tmp_path)[0] == (f"{first}/0001_GT_SRGB_010.PNG", f"{first}/0001_NOISY_SRGB_010.PNG")
    assert [item.clean.parent.name for item in items] == [
        f.removeprefix("Data/") for f in (first, first, second, third)
    ]
    # Scene 001 is in the first two folders: none of it is trained on.
    training, held_out = hold_out(items, 2)
    assert [item.clean.parent.name for item in training] == [third.removeprefix("Data/")]
    assert len(held_out) == 3


def test_sensenoise_is_matched_by_the_word_in_its_names_without_its_test_pictures(tmp_path, write):
    for name in ("noisy/1_noisy.png", "gt/1_gt.png", "noisy/2_noisy.png", "gt/2_gt.png"):
        write(f"final_datasetv4_png/{name}")
    (tmp_path / "final_datasetv4_png" / "test.txt").write_text("2_gt.png\n")
    root = "final_datasetv4_png"
    assert names(find_items(tmp_path, "sensenoise"), tmp_path) == [(f"{root}/gt/1_gt.png", f"{root}/noisy/1_noisy.png")]
    (tmp_path / root / "test.txt").write_text("1_noisy.png\n2_gt.png\n")
    with pytest.raises(InvalidInputError, match=r"all are listed in its test\.txt"):
        find_items(tmp_path, "sensenoise")


@pytest.mark.parametrize(
    ("degraded", "clean"),
    [("train_c/source", "train_c/target"), ("train/inputC", "train/target"), ("source", "target")],
)
def test_dpdd_is_matched_by_order(degraded, clean, tmp_path, write):
    for number in (1, 3):
        write(f"{degraded}/1P0A{number:04}.png")
        write(f"{clean}/1P0A{number + 1:04}.png")
    expected = [(f"{clean}/1P0A{n + 1:04}.png", f"{degraded}/1P0A{n:04}.png") for n in (1, 3)]
    assert names(find_items(tmp_path, "dpdd"), tmp_path) == expected
    write(f"{degraded}/1P0A0005.png")
    with pytest.raises(InvalidInputError, match="got 3 and 2; pairs are matched by their order"):
        find_items(tmp_path, "dpdd")


@pytest.mark.parametrize(("count", "every"), [(1, 2), (2, 2), (10, 3), (41, 20)])
def test_a_split_gives_every_photo_to_one_side_and_every_nth_to_validation(count, every, tmp_path):
    items = [Item(tmp_path / f"{i}.png") for i in range(count)]
    training, held_out = hold_out(items, every)
    assert sorted(training + held_out, key=items.index) == items
    assert held_out == items[::every]
    assert not {*training} & {*held_out}
