"""The parts of published sets that are tested on, and SIDD's blocks."""

import logging

import numpy as np
import pytest
from scipy.io import savemat

from kbnet.data import TEST_LAYOUTS, find_test_items, read_blocks
from kbnet.errors import InvalidInputError


@pytest.mark.parametrize("layout", TEST_LAYOUTS)
def test_a_folder_without_photos_is_refused_in_one_line(layout, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(InvalidInputError, match=str(tmp_path)) as caught:
        find_test_items(tmp_path, layout)
    assert str(caught.value).isprintable()


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="one of photos, pairs, sensenoise, rain, dpdd, levin; got 'sots'"):
        find_test_items(tmp_path, "sots")


def test_sensenoise_without_its_list_is_refused_and_names_that_are_not_there_are_told(tmp_path, write, caplog):
    for name in ("noisy/1_noisy.png", "gt/1_gt.png"):
        write(name)
    with pytest.raises(InvalidInputError, match=r"expected a test.txt"):
        find_test_items(tmp_path, "sensenoise")
    (tmp_path / "test.txt").write_text("1_gt.png\n7_gt.png\n")
    with caplog.at_level(logging.WARNING, "kbnet"):
        assert len(find_test_items(tmp_path, "sensenoise")) == 1
    assert caplog.messages == ["skipped: 1 listed in test.txt but missing: 7_gt"]


def test_levins_blurred_pictures_share_their_sharp_one(tmp_path, write):
    for name in ("gt/im1.png", "gt/kernel1.png", "im1_kernel1_img.png", "im1_kernel2_img.png", "other.png"):
        write(name)
    items = find_test_items(tmp_path, "levin")
    assert [(i.clean.name, i.degraded.name, i.scene) for i in items] == [
        ("im1.png", "im1_kernel1_img.png", "kernel1"),
        ("im1.png", "im1_kernel2_img.png", "kernel2"),
    ]
    write("im2_kernel1_img.png")
    with pytest.raises(InvalidInputError, match=r"expected im2.png in .*gt, the sharp image of im2_kernel1_img.png"):
        find_test_items(tmp_path, "levin")


NAME = "ValidationNoisyBlocksSrgb"


def test_blocks_are_read_from_wherever_the_file_lies(tmp_path):
    blocks = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3)).astype(np.uint8)
    (tmp_path / "a" / "b").mkdir(parents=True)
    savemat(tmp_path / "a" / "b" / f"{NAME}.mat", {NAME: blocks})
    assert np.array_equal(read_blocks(tmp_path, NAME), blocks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({NAME: np.zeros((2, 8, 8, 3), np.uint8)}, r"got uint8 \[2, 8, 8, 3\]"),
        ({NAME: np.zeros((1, 2, 8, 8, 3))}, r"got double"),
        ({"other": np.zeros((1, 2, 8, 8, 3), np.uint8)}, "nothing of that name"),
    ],
)
def test_an_array_of_another_kind_is_refused(content, message, tmp_path):
    savemat(tmp_path / f"{NAME}.mat", content)
    with pytest.raises(InvalidInputError, match=message):
        read_blocks(tmp_path, NAME)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"])
def test_a_file_that_is_no_matlab_file_is_refused(content, tmp_path):
    (tmp_path / f"{NAME}.mat").write_bytes(content)
    with pytest.raises(InvalidInputError, match="MATLAB"):
        read_blocks(tmp_path, NAME)
