"""Rows survive: a journal killed at any byte goes on, and never with rows of other settings."""

import json
import math

import pytest

from kbnet.errors import InvalidInputError, OutputError, OutputExistsError
from kbnet.evaluation import Journal, Row, summarise

SETTINGS = {"benchmark": "pairs", "sigmas": (15.0,), "sha256": "abc"}
ROWS = [Row(f"all/{n}", str(n), ("all",), 8, 6, {"psnr": 20.0 + n}, {"psnr": 25.0 - n}, 0.5) for n in range(4)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


def test_a_row_comes_back_from_its_json():
    odd = Row("a", "b", ("c", "all"), 1, 2, {"psnr": math.inf}, {"psnr": 31.25, "ssim": math.nan}, 0.25)
    value = json.loads(json.dumps(odd.as_json(), allow_nan=False))
    again = Row.from_json(value)
    assert again.as_json() == odd.as_json()
    assert (again.input["psnr"], math.isnan(again.output["ssim"])) == (math.inf, True)
    failed = Row("a", "b", ("c",), error="no such file")
    assert Row.from_json(failed.as_json()) == failed


def test_rows_are_kept_while_it_runs_and_one_file_is_left_at_the_end(path):
    journal = Journal(path, SETTINGS)
    for row in ROWS:
        journal.add(row)
    journal.close()
    journal = Journal(path, SETTINGS, resume=True)
    assert [*journal.rows.values()] == ROWS
    journal.finish({"settings": SETTINGS, "images": [row.as_json() for row in ROWS]})
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == ROWS


@pytest.mark.slow
def test_a_journal_cut_off_at_any_byte_keeps_every_whole_row(path):
    journal = Journal(path, SETTINGS)
    for row in ROWS[:2]:
        journal.add(row)
    journal.close()
    place = path.with_name("results.json.rows")
    content = place.read_bytes()
    head = content.index(b"\n") + 1
    for end in range(head, len(content) + 1):
        place.write_bytes(content[:end])
        resumed = Journal(path, SETTINGS, resume=True)
        # a row that lacks nothing but the end of its line is whole
        assert [*resumed.rows.values()] == ROWS[: content[head : end + 1].count(b"\n")]
        resumed.add(ROWS[3])
        resumed.close()
        assert [*Journal(path, SETTINGS, resume=True).rows.values()] == [*resumed.rows.values()]


def test_what_failed_is_tried_again(path):
    journal = Journal(path, SETTINGS)
    journal.add(ROWS[0])
    journal.add(Row("all/1", "1", ("all",), error="broken"))
    journal.close()
    assert [*Journal(path, SETTINGS, resume=True).rows] == ["all/0"]


def test_rows_of_other_settings_are_refused_and_the_difference_named(path):
    Journal(path, SETTINGS)
    with pytest.raises(InvalidInputError, match="other settings: sha256 was 'abc', now 'def'"):
        Journal(path, SETTINGS | {"sha256": "def"}, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 1}', '{"settings": {}, "images": [{}]}'])
def test_a_file_of_another_kind_is_not_gone_on_with(content, path):
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="can't resume, not results of kbnet evaluate"):
        Journal(path, SETTINGS, resume=True)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        Journal(path, SETTINGS)
    assert Journal(path, SETTINGS, overwrite=True).rows == {}


def test_an_interrupted_evaluation_is_not_begun_over_unasked(path):
    Journal(path, SETTINGS).add(ROWS[0])
    with pytest.raises(OutputExistsError, match="interrupted here; continue with --resume"):
        Journal(path, SETTINGS)
    assert Journal(path, SETTINGS, overwrite=True).rows == {}
    assert Journal(path, SETTINGS, resume=True).rows == {}


def test_a_second_evaluation_into_one_file_is_refused_and_changes_nothing(path):
    journal = Journal(path, SETTINGS)
    journal.add(ROWS[0])
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match=r"evaluating into .*results.json.rows; wait for it, stop it"):
            Journal(path, SETTINGS, **options)
    journal.add(ROWS[1])
    journal.close()
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == ROWS[:2]


def test_an_evaluation_resumed_from_results_and_killed_keeps_their_rows(path):
    path.write_text(json.dumps({"settings": SETTINGS, "images": [row.as_json() for row in ROWS[:2]]}))
    Journal(path, SETTINGS, resume=True).add(ROWS[2])
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == ROWS[:3]
    # and one that began anew keeps none of them
    Journal(path, SETTINGS, overwrite=True).add(ROWS[3])
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == [ROWS[3]]


def test_rows_that_cannot_be_read_are_left_out_and_measured_again(path):
    journal = Journal(path, SETTINGS)
    for row in ROWS[:3]:
        journal.add(row)
    journal.close()
    place = path.with_name("results.json.rows")
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(lines[0] + lines[1] + b"\xff\x00{[\n" + lines[3])
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == [ROWS[0], ROWS[2]]


def test_a_folder_that_is_not_there_is_refused_before_the_work(tmp_path):
    with pytest.raises(InvalidInputError, match="folder does not exist"):
        Journal(tmp_path / "gone" / "results.json", SETTINGS)


def test_means_are_plain_means_of_decibels_and_the_whole_comes_last():
    rows = [
        Row("a", "a", ("all", "defocus"), 10, 10, {"psnr": 20.0}, {"psnr": 30.0, "ssim": 0.5}, 1.0),
        Row("b", "b", ("all", "motion"), 10, 10, {"psnr": 22.0}, {"psnr": 21.0, "ssim": 0.7}, 1.0),
        Row("c", "c", ("all", "motion"), error="broken"),
    ]
    means = summarise(rows)
    assert [*means] == ["defocus", "motion", "all"]
    assert means["all"] == {
        "pictures": 2,
        "input": {"psnr": 21.0},
        "output": {"psnr": 25.5, "ssim": 0.6},
        "lowest": {"photo": "b", "psnr": 21.0, "ssim": 0.7},
        "worse": 1,
    }


def test_results_that_appeared_during_the_work_are_not_replaced_and_the_rows_are_kept(tmp_path):
    path = tmp_path / "results.json"
    journal = Journal(path, SETTINGS)
    journal.add(ROWS[0])
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match="the file exists"):
        journal.finish({"settings": SETTINGS, "images": []})
    journal.close()
    assert path.read_text() == "precious"
    assert [*Journal(path, SETTINGS, resume=True).rows.values()] == ROWS[:1]
