"""Which picture is written where: as for folders on this machine, and by URL."""

import pytest
from small_jobs import make_pictures

from kbnet.distributed import plan_rows
from kbnet.errors import InvalidInputError
from kbnet.inference.jobs import plan_jobs

NAMES = ["a.png", "b.jpg", "deep/er/c.tif"]


@pytest.fixture
def folder(tmp_path):
    make_pictures(tmp_path / "in", NAMES)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_local_files_go_where_a_plain_run_puts_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    rows = plan_rows(["in"], "out", suffix="-x", format="png")
    jobs = plan_jobs(["in"], "out", suffix="-x", format="png")
    assert [(row.input, row.output) for row in rows] == [
        (str(folder / job.input), str(folder / job.output)) for job in jobs
    ]
    assert len(rows) == 3


@pytest.mark.parametrize("form", ["file://{}", "local://{}"])
@pytest.mark.parametrize("local_output", [True, False])
def test_a_tree_is_mirrored_by_url(folder, form, local_output):
    pytest.importorskip("pyarrow")
    output = str(folder / "out") if local_output else form.format(folder / "out")
    rows = plan_rows([form.format(folder / "in")], output, suffix="-x", format="png")
    shown = {row.input.rpartition("/in/")[2]: row.output.rpartition("/out/")[2] for row in rows}
    assert shown == {"a.png": "a-x.png", "b.jpg": "b-x.png", "deep/er/c.tif": "deep/er/c-x.png"}


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_inputs_found_in_a_folder_are_told_from_named_ones(folder, form):
    if "://" in form:
        pytest.importorskip("pyarrow")
    named, found = (plan_rows([form.format(folder / name)], form.format(folder / "out")) for name in ("in/a.png", "in"))
    assert [row.searched for row in named] == [False]
    assert [row.searched for row in found] == [True] * 3


def test_one_file_by_url_goes_into_the_folder(folder):
    pytest.importorskip("pyarrow")
    (row,) = plan_rows([f"file://{folder}/in/a.png"], f"file://{folder}/out")
    assert row.output == f"file://{folder}/out/a.png"


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_result_that_exists_is_a_problem_unless_it_may_be_replaced(folder, form):
    if "://" in form:
        pytest.importorskip("pyarrow")
    make_pictures(folder / "out", ["b.jpg"])
    places = [form.format(folder / "in")], form.format(folder / "out")
    problems = [row.problem for row in plan_rows(*places)]
    assert [problem is None for problem in problems] == [True, False, True]
    assert "b.jpg: the file exists" in problems[1]
    assert [row.problem for row in plan_rows(*places, overwrite=True)] == [None] * 3


def test_results_of_an_earlier_run_below_the_input_are_no_inputs(folder):
    pytest.importorskip("pyarrow")
    make_pictures(folder / "in" / "out", ["a.png"])
    rows = plan_rows([f"file://{folder}/in"], f"file://{folder}/in/out", overwrite=True)
    assert len(rows) == 3


def test_two_results_of_one_name_and_a_result_over_an_input_are_refused(folder):
    pytest.importorskip("pyarrow")
    make_pictures(folder / "in", ["a.jpg"])
    with pytest.raises(InvalidInputError, match="would both be written to"):
        plan_rows([f"file://{folder}/in"], f"file://{folder}/out", format="png")
    with pytest.raises(InvalidInputError, match="is an input"):
        plan_rows([f"file://{folder}/in"], f"file://{folder}/in")


def test_an_output_is_asked_for_and_pictures_are(folder):
    pytest.importorskip("pyarrow")
    with pytest.raises(InvalidInputError, match="expected an output folder"):
        plan_rows([f"file://{folder}/in"], None)
    (folder / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="found none in"):
        plan_rows([f"file://{folder}/empty"], f"file://{folder}/out")
