"""A worker without Ray: retries, errors that are outcomes, and the ledger that gives a deadly picture an end."""

import errno
import json
import os
import stat
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from small_jobs import make_pictures, make_weights

import kbnet
from kbnet.distributed import Outcome, Row, Settings, error_table, restore_rows, worker
from kbnet.distributed.attempts import Attempts
from kbnet.errors import InvalidInputError, OutputError, UnreadableImageError
from kbnet.imaging import DEFAULT_MAX_PIXELS, Photo, read_photo, write_photo, xmp
from kbnet.inference.ledger import digest
from kbnet.inference.marking import MARKED_NOTE, holds_mark, is_marked
from kbnet.lines import Lines

ANY_OUTPUT = {"format": None, "quality": None, "max_pixels": DEFAULT_MAX_PIXELS}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def one(weights, monkeypatch):
    monkeypatch.setattr(worker, "_FIRST_PAUSE", 0.0)
    made = worker.Worker(
        str(weights), None, {"tile": 0}, {"strength": 0.5}, dict(ANY_OUTPUT), threads=1, attempts=3, known=None
    )
    ask(made, Attempts(3), monkeypatch)
    return made


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


def test_an_input_is_not_replaced_by_a_result_that_lacks_its_sound(one, tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    photo = Photo(np.zeros((24, 32, 3), np.uint8))
    spoken = write_photo(photo, None, format="jpeg") + b"RIFF\0\0\0\0WAVEfmt " + bytes(5000)
    path.write_bytes(spoken)
    row = {"index": 0, "input": str(path), "output": str(path), "overwrite": True}
    assert "a sound recording would be lost with the original" in one.restore(row)["error"]
    assert path.read_bytes() == spoken
    monkeypatch.setitem(one._output, "drop_extras", True)
    assert one.restore(row)["error"] == ""
    assert read_photo(path).extras == ()


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
    assert outcome["error"].startswith(f"{row['input']}: the PNG file is truncated")
    missing = one.restore(row | {"input": str(tmp_path / "missing.png")})
    assert (missing["attempts"], "missing.png: can't be read" in missing["error"]) == (1, True)
    monkeypatch.setattr(worker, "run_jobs", lambda *_, **__: 1 / 0)
    mistake = one.restore(row)
    assert (mistake["attempts"], mistake["error"]) == (1, f"{row['input']}: ZeroDivisionError: division by zero")
    assert not (tmp_path / "out").exists()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_that_appeared_after_planning_is_kept(one, row, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"precious")
    outcome = one.restore(row)
    assert outcome["error"] == f"{row['output']}: the file exists; choose another name or allow overwriting"
    assert (tmp_path / "out" / "a.png").read_bytes() == b"precious"


def test_a_result_that_a_dead_worker_wrote_is_no_file_in_the_way(one, row):
    assert one.restore(row)["error"] == ""
    assert one.restore(row)["error"] == ""


def test_a_replaced_file_keeps_its_mode(one, row, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"old")
    (tmp_path / "out" / "a.png").chmod(0o600)
    assert one.restore(row | {"overwrite": True})["error"] == ""
    assert mode(tmp_path / "out" / "a.png") == 0o600
    assert read_photo(tmp_path / "out" / "a.png").width == 32


def test_an_output_that_fails_is_named_and_tried_again_only_where_that_may_help(one, row, monkeypatch):
    for code, attempts in ((errno.ENOSPC, 1), (errno.EIO, 3)):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(OSError(code, os.strerror(code))))
            outcome = one.restore(row)
        assert outcome["error"].startswith(f"{row['output']}: can't be written: {os.strerror(code).lower()}")
        assert outcome["attempts"] == attempts
    with monkeypatch.context() as patch:
        patch.setattr(worker.storage, "write", failing(OSError("connection reset")))
        assert one.restore(row)["error"] == f"{row['output']}: connection reset"
    assert one.restore(row)["error"] == ""


def failing(error):
    def fail(*args, **options):
        raise error

    return fail


def test_a_run_with_a_log_goes_on_from_it(one, row, tmp_path, monkeypatch):
    log, about = tmp_path / "log.jsonl", {"weights": "abc"}

    def run(settings=None, about=about):
        known = Attempts(3, str(log), settings)
        assert known.join(about) == ""
        ask(one, known, monkeypatch)
        try:
            outcome = one(row)
        finally:
            known._ledger.close()
        return outcome["error"], outcome["skipped"]

    output = tmp_path / "out" / "a.png"
    assert run() == ("", False)
    assert run() == ("", True)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == ["settings", "writing", "done", "skipped"]
    output.unlink()
    assert run() == ("", False)
    output.write_bytes(b"something else")
    assert "the file exists" in run()[0]
    output.unlink()
    assert run() == ("", False)
    (tmp_path / "a.png").unlink()
    make_pictures(tmp_path, ["b.png", "a.png"])  # another picture by that name
    assert "the file exists" in run()[0]
    for other in ({"settings": {"strength": 0.3}}, {"about": {"weights": "def"}}):
        output.unlink(missing_ok=True)
        assert run(**other) == ("", False)
        assert run(**other) == ("", True)


def test_a_log_knows_the_settings_that_results_depend_on():
    usual = Settings(mark=True)
    assert usual.depends == {"strength": 1.0, "format": None, "quality": None}  # those of older logs of the command
    others = [Settings(mark=True, same_quality=True), Settings(), Settings(mark=True, quality=50)]
    assert all(other.depends != usual.depends for other in others)


def test_workers_that_compute_in_another_form_take_no_part_in_a_run_with_a_log(tmp_path):
    known = Attempts(3, str(tmp_path / "log.jsonl"))
    assert known.join({"weights": "abc", "instruction_set": "avx512"}) == ""
    assert known.join({"weights": "abc", "instruction_set": "avx512"}) == ""
    refused = known.join({"weights": "abc", "instruction_set": "avx2"})
    assert refused == (
        "the workers of this run differ (instruction_set avx2 and avx512); use machines of the same kind, or omit --log"
    )
    assert "another process" in Attempts(3, str(tmp_path / "log.jsonl")).join({})


def test_a_log_that_another_process_has_is_refused_before_a_cluster_starts(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("kbnet.distributed.running._PATIENCE", 0.0)
    make_pictures(tmp_path, ["a.png"])
    settings = Settings(model=str(weights), log=tmp_path / "log.jsonl")
    rows = [Row(str(tmp_path / "a.png"), str(tmp_path / "b.png"))]
    with Lines(tmp_path / "log.jsonl"), pytest.raises(OutputError, match=r"log\.jsonl; wait for it, stop it"):
        list(restore_rows(rows, settings))
    with pytest.raises(InvalidInputError, match="driver's machine"):
        Settings(log=tmp_path / "log.jsonl", address="ray://somewhere:10001")


def test_a_result_takes_the_format_of_its_name(one, row, tmp_path):
    assert one.restore(row | {"output": str(tmp_path / "a.webp")})["error"] == ""
    assert read_photo(tmp_path / "a.webp").format == "webp"


def test_what_is_known_lets_a_row_be_tried_so_often_and_remembers_what_became_of_it():
    known = Attempts(attempts=2)
    assert known.begin(1) is None
    assert known.begin(1) is None  # its worker died
    given_up = known.begin(1)
    assert (given_up["error"], given_up["attempts"]) == ("its worker died in each of 2 attempts", 2)
    assert known.begin(2) is None
    known.end(2, {"index": 2, "error": ""})
    assert known.begin(2) == {"index": 2, "error": ""}
    known.forget(2)
    assert known.begin(2) is None


def ask(one, known, monkeypatch):
    """Let the worker talk to `known` as it does through Ray."""
    calls = {name: SimpleNamespace(remote=getattr(known, name)) for name in ("begin", "end", "promised", "promise")}
    monkeypatch.setattr(one, "_known", SimpleNamespace(**calls))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda result: result))


def test_a_worker_asks_first_and_tells_it_what_became_of_a_row(one, row, monkeypatch):
    known, restored = Attempts(attempts=1), []
    ask(one, known, monkeypatch)
    monkeypatch.setattr(one, "restore", lambda given: restored.append(given) or {"index": 7, "error": ""})
    assert one(row) == one(row) == {"index": 7, "error": ""}  # the second time for an answer that was lost
    assert restored == [row]
    known.forget(7)
    assert known.begin(7) is None  # and the worker dies
    assert one(row)["error"] == "its worker died in each of 1 attempts"
    assert restored == [row]


def test_a_result_that_has_replaced_its_input_is_done(one, tmp_path, monkeypatch):
    photo, copy = tmp_path / "a.png", tmp_path / "b.png"
    for path in (photo, copy):
        path.write_bytes(b"the result")
    result = digest(photo)
    monkeypatch.setattr(one, "_ask", lambda *_: ("digest of the input", result))
    assert one._is_done({"input": str(photo), "output": str(photo)}, result)
    assert not one._is_done({"input": str(copy), "output": str(photo)}, result)
    assert one._is_done({"input": str(copy), "output": str(photo)}, "digest of the input")


def in_place(path, **more):
    return {"index": 0, "input": str(path), "output": str(path), "overwrite": True, "searched": True} | more


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_result_that_is_found_in_a_folder_is_not_restored_again(one, row, tmp_path, monkeypatch, form):
    if "://" in form:
        pytest.importorskip("pyarrow")
    monkeypatch.setitem(one._output, "mark", True)
    path = tmp_path / "a.png"
    place = form.format(path)
    assert one.restore(in_place(place))["error"] == ""
    restored = path.read_bytes()
    ask(one, Attempts(3), monkeypatch)  # another run, without a log
    outcome = one.restore(in_place(place))
    assert (outcome["error"], outcome["skipped"], outcome["notes"]) == ("", True, MARKED_NOTE)
    assert path.read_bytes() == restored
    # unless it is named by itself
    outcome = one.restore(in_place(place, searched=False))
    assert (outcome["error"], outcome["skipped"]) == ("", False)
    assert path.read_bytes() != restored


@pytest.mark.parametrize("at", [0, 300_000, 600_000, 1_000_000 - len(xmp.MARK)])
def test_the_mark_is_looked_for_where_a_local_run_does(at, tmp_path):
    data = bytearray(1_000_000)
    data[at : at + len(xmp.MARK)] = xmp.MARK
    (tmp_path / "a").write_bytes(data)
    assert holds_mark(bytes(data)) == is_marked(tmp_path / "a")
    assert holds_mark(xmp.MARK)
    assert not holds_mark(b"")


def test_a_worker_that_died_after_its_result_replaced_the_input_leaves_nothing_to_do(one, row, tmp_path, monkeypatch):
    known = Attempts(3)  # without a log
    ask(one, known, monkeypatch)
    given, path = in_place(tmp_path / "a.png"), tmp_path / "a.png"
    original = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one._known.end, "remote", killed)
        with pytest.raises(KeyboardInterrupt):
            one(given)
    restored = path.read_bytes()
    assert restored != original
    outcome = one(given)
    assert (outcome["error"], outcome["skipped"]) == ("", True)
    assert path.read_bytes() == restored
    # nor has it anything to do if the driver has its outcome already
    known.forget(0)
    assert one(given)["skipped"]
    assert path.read_bytes() == restored


def test_a_worker_that_died_before_its_result_was_written_leaves_everything_to_do(one, row, tmp_path, monkeypatch):
    given, path = in_place(tmp_path / "a.png"), tmp_path / "a.png"
    original = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(worker.storage, "write", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            one(given)
    assert path.read_bytes() == original
    outcome = one(given)
    assert (outcome["error"], outcome["skipped"]) == ("", False)
    assert path.read_bytes() != original


@pytest.mark.skipif(os.name == "nt", reason="has other permissions")
@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("target", ["a.png", "out/a.png"])
def test_a_result_keeps_the_times_and_the_permissions_of_its_input(one, row, tmp_path, monkeypatch, form, target):
    if "://" in form:
        pytest.importorskip("pyarrow")
    monkeypatch.setitem(one._output, "keep_time", True)
    path, then = tmp_path / "a.png", 1_000_000_000 * 10**9
    os.utime(path, ns=(then, then))
    path.chmod(0o600)
    original = path.read_bytes()
    given = in_place(form.format(path), output=form.format(tmp_path / target))
    assert one.restore(given)["error"] == ""
    result = tmp_path / target
    assert result.read_bytes() != original
    assert (mode(result), result.stat().st_mtime_ns) == (0o600, then)


def test_a_result_has_the_present_time_unless_asked(one, row, tmp_path):
    os.utime(tmp_path / "a.png", ns=(10**18, 10**18))
    assert one.restore(row)["error"] == ""
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns > 1.5e18


def test_failures_are_listed_in_a_table():
    rows = [Row("a.png", "out/a.png"), Row('b, "c".png', "out/b.png")]
    table = error_table([Outcome(rows[0]), Outcome(rows[1], error="no, not this", attempts=3)])
    assert table.decode() == 'input,output,error,attempts\r\n"b, ""c"".png",out/b.png,"no, not this",3\r\n'


def test_settings_that_cannot_be_are_refused():
    for name in ("workers", "threads", "attempts"):
        with pytest.raises(InvalidInputError, match=name):
            Settings(**{name: 0})


def test_rows_with_problems_alone_start_no_cluster():
    row = Row("a.png", "b.png", "b.png: the file exists")
    assert list(restore_rows([row], Settings())) == [Outcome(row, error="b.png: the file exists")]
    with pytest.raises(kbnet.errors.UnknownModelError):
        list(restore_rows([row], Settings(model="nothing")))


def test_unreadable_is_a_kind_of_error_that_is_not_retried():
    assert not issubclass(UnreadableImageError, OSError)
