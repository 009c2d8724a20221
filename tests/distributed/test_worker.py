"""A worker without Ray: retries, errors that are outcomes, and the ledger that gives a deadly picture an end."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from small_jobs import make_pictures, make_weights

import kbnet
from kbnet.distributed import Outcome, Row, Settings, error_table, worker
from kbnet.errors import InvalidInputError, UnreadableImageError
from kbnet.imaging import DEFAULT_MAX_PIXELS, read_photo

ANY_OUTPUT = {"format": None, "quality": None, "max_pixels": DEFAULT_MAX_PIXELS}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def one(weights, monkeypatch):
    monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.0)
    return worker.Worker(str(weights), None, {"tile": 0}, 0.5, ANY_OUTPUT, threads=1, attempts=3, ledger=None)


@pytest.fixture
def row(tmp_path):
    make_pictures(tmp_path, ["a.png"])
    return {"index": 7, "input": str(tmp_path / "a.png"), "output": str(tmp_path / "out" / "a.png")}


def test_a_picture_is_restored_as_a_restorer_does_it(one, row, weights, tmp_path):
    outcome = one.restore(row)
    assert outcome["error"] == ""
    assert (outcome["index"], outcome["attempts"], outcome["width"], outcome["height"]) == (7, 1, 32, 24)
    expected = kbnet.Restorer.from_pretrained(weights, tile=0)(read_photo(row["input"]).pixels, strength=0.5)
    np.testing.assert_array_equal(read_photo(row["output"]).pixels, expected)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.parametrize(("failures", "attempts", "ok"), [(1, 2, True), (2, 3, True), (3, 3, False)])
def test_storage_that_fails_for_a_while_is_tried_again(one, row, monkeypatch, failures, attempts, ok):
    read, left = worker.storage.read, [OSError("connection reset")] * failures

    def unreliable(place):
        if left:
            raise left.pop()
        return read(place)

    monkeypatch.setattr(worker.storage, "read", unreliable)
    outcome = one.restore(row)
    assert (outcome["attempts"], outcome["error"] == "") == (attempts, ok)
    assert ok or outcome["error"] == f"{row['input']}: connection reset"


def test_what_will_not_change_is_not_tried_again(one, row, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    outcome = one.restore(row)
    assert outcome["attempts"] == 1
    assert outcome["error"].startswith(f"{row['input']}: expected a whole PNG")
    missing = one.restore(row | {"input": str(tmp_path / "missing.png")})
    assert (missing["attempts"], "missing.png: cannot be read" in missing["error"]) == (1, True)
    monkeypatch.setattr(worker, "run_jobs", lambda *_, **__: 1 / 0)
    mistake = one.restore(row)
    assert (mistake["attempts"], mistake["error"]) == (1, f"{row['input']}: ZeroDivisionError: division by zero")
    assert not (tmp_path / "out").exists()


def test_a_result_takes_the_format_of_its_name(one, row, tmp_path):
    assert one.restore(row | {"output": str(tmp_path / "a.webp")})["error"] == ""
    assert read_photo(tmp_path / "a.webp").format == "webp"


def test_the_ledger_lets_a_row_be_tried_so_often_and_remembers_what_became_of_it():
    ledger = worker.Ledger(attempts=2)
    assert ledger.begin(1) is None
    assert ledger.begin(1) is None  # its worker died
    given_up = ledger.begin(1)
    assert (given_up["error"], given_up["attempts"]) == ("its worker died at each of 2 attempts", 2)
    assert ledger.begin(2) is None
    ledger.end(2, {"index": 2, "error": ""})
    assert ledger.begin(2) == {"index": 2, "error": ""}
    ledger.forget(2)
    assert ledger.begin(2) is None


def test_a_worker_asks_the_ledger_first_and_tells_it_what_became_of_a_row(one, row, monkeypatch):
    ledger, restored = worker.Ledger(attempts=1), []
    calls = {name: SimpleNamespace(remote=getattr(ledger, name)) for name in ("begin", "end")}
    monkeypatch.setattr(one, "_ledger", SimpleNamespace(**calls))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda result: result))
    monkeypatch.setattr(one, "restore", lambda given: restored.append(given) or {"index": 7, "error": ""})
    assert one(row) == one(row) == {"index": 7, "error": ""}  # the second time for an answer that was lost
    assert restored == [row]
    ledger.forget(7)
    assert ledger.begin(7) is None  # and the worker dies
    assert one(row)["error"] == "its worker died at each of 1 attempts"
    assert restored == [row]


def test_failures_are_listed_in_a_table():
    rows = [Row("a.png", "out/a.png"), Row('b, "c".png', "out/b.png")]
    table = error_table([Outcome(rows[0]), Outcome(rows[1], error="no, not this", attempts=3)])
    assert table.decode() == 'input,output,error,attempts\r\n"b, ""c"".png",out/b.png,"no, not this",3\r\n'


def test_settings_that_cannot_be_are_refused():
    for name in ("workers", "threads", "attempts"):
        with pytest.raises(InvalidInputError, match=name):
            Settings(**{name: 0})


def test_rows_with_problems_alone_start_no_cluster():
    from kbnet.distributed import restore_rows

    row = Row("a.png", "b.png", "b.png: the file exists")
    assert list(restore_rows([row], Settings())) == [Outcome(row, error="b.png: the file exists")]
    with pytest.raises(kbnet.errors.UnknownModelError):
        list(restore_rows([row], Settings(model="nothing")))


def test_unreadable_is_a_kind_of_error_that_is_not_retried():
    assert not issubclass(UnreadableImageError, OSError)
