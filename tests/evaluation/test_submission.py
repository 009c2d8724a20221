"""What SIDD's server takes: read back, block by block."""

import base64
import csv

import numpy as np
import pytest
from evaluation_files import save_blocks
from scipy.io import loadmat

from kbnet.errors import InvalidInputError, OutputExistsError
from kbnet.evaluation.submission import write_submission


@pytest.fixture
def blocks(tmp_path):
    array = save_blocks(tmp_path / "data")
    return {(scene, block): array[scene, block] for scene in range(2) for block in range(3)}


def write(path, blocks, **options):
    write_submission(path, blocks, seconds_per_megapixel=1.5, method="nano", **options)
    return path


@pytest.mark.parametrize("name", ["SubmitSrgb.csv", "SubmitSrgb.mat"])
def test_a_file_that_appeared_during_the_work_is_not_replaced_unless_asked(blocks, tmp_path, name):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="the file exists"):
        write(tmp_path / name, blocks)
    assert (tmp_path / name).read_bytes() == b"precious"
    write(tmp_path / name, blocks, overwrite=True)
    assert (tmp_path / name).read_bytes() != b"precious"


def test_the_csv_holds_every_block_in_order(blocks, tmp_path):
    with write(tmp_path / "SubmitSrgb.csv", blocks).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ID"] for row in rows] == [str(number) for number in range(6)]
    for row, key in zip(rows, sorted(blocks), strict=True):
        again = np.frombuffer(base64.b64decode(row["BLOCK"]), np.uint8).reshape(24, 24, 3)
        assert np.array_equal(again, blocks[key])


def test_the_mat_file_holds_a_cell_for_every_block_the_time_and_the_name(blocks, tmp_path):
    content = loadmat(write(tmp_path / "SubmitSrgb.mat", blocks))
    cells = content["DenoisedBlocksSrgb"]
    assert (cells.shape, cells.dtype) == ((2, 3), object)
    assert all(np.array_equal(cells[key], blocks[key]) and cells[key].dtype == np.uint8 for key in blocks)
    assert content["TimeMPSrgb"].item() == 1.5
    assert content["OptionalData"]["MethodName"].item().item() == "nano"


def test_a_missing_block_another_dtype_and_another_ending_are_refused(blocks, tmp_path):
    with pytest.raises(InvalidInputError, match=r"ending in .csv or .mat, got blocks.npy"):
        write(tmp_path / "blocks.npy", blocks)
    with pytest.raises(InvalidInputError, match=r"1 of 6 blocks are missing, the first is \(0, 1\)"):
        write(tmp_path / "a.csv", {key: block for key, block in blocks.items() if key != (0, 1)})
    with pytest.raises(InvalidInputError, match="uint8 blocks"):
        write(tmp_path / "a.csv", blocks | {(1, 1): blocks[1, 1] / 255})
    with pytest.raises(InvalidInputError, match="got none"):
        write(tmp_path / "a.csv", {})
    assert list(tmp_path.glob("a.csv")) == []
