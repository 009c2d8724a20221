"""Overlapping steps, the log that a run goes on from, and files as they come."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kbnet.errors import InvalidInputError, OutputError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference import jobs as jobs_module
from kbnet.inference import steps as steps_module
from kbnet.inference.jobs import Job, plan_jobs, run_jobs
from kbnet.inference.ledger import Ledger
from kbnet.inference.overlap import Budget, Closed
from kbnet.inference.watching import SECONDS, Watch

PATIENCE = 60.0
GRAY = Photo(np.full((6, 8), 100, np.uint8))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with ten pictures, each of its own gray, in "in"."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(10):
        write_photo(Photo(np.full((6, 8), 10 * number, np.uint8)), f"in/{number}.png")
    return tmp_path


def invert(image, /, *, progress):
    progress(1, 1)
    return 255 - image


def run(restore=invert, **options):
    return list(run_jobs(plan_jobs(["in"], "out"), restore, **options))


def check_results():
    for number in range(10):
        assert read_photo(f"out/{number}.png").pixels[0, 0] == 255 - 10 * number


def test_the_next_is_read_and_the_last_one_written_while_one_is_restored(folder, monkeypatch):
    reads = [threading.Event() for _ in range(11)]
    writes = [threading.Event() for _ in range(10)]
    reads[10].set()

    def read(path, **options):
        reads[int(path.stem)].set()
        return read_photo(path, **options)

    def write(data, path, **options):
        path.write_bytes(data)
        writes[int(path.stem)].set()

    def restore(image, /, *, progress):
        number = image[0, 0] // 10
        assert reads[number + 1].wait(PATIENCE)
        assert number == 0 or writes[number - 1].wait(PATIENCE)
        return 255 - image

    monkeypatch.setattr(steps_module, "read_photo", read)
    monkeypatch.setattr(steps_module.files, "write", write)
    assert all(result.ok for result in run(restore))
    check_results()


def test_nothing_after_a_told_result_has_been_written(folder):
    for result in run_jobs(plan_jobs(["in"], "out"), invert):
        assert sorted(Path("out").iterdir())[-1] == result.job.output


def test_pictures_beyond_the_budget_are_alone_in_memory(folder, monkeypatch):
    monkeypatch.setattr(steps_module, "BYTES_AT_A_TIME", 50)  # of one, not of two
    decoded = []

    def read(path, **options):
        decoded.append(path)
        return read_photo(path, **options)

    def restore(image, /, *, progress):
        assert len(decoded) == image[0, 0] // 10 + 1
        return 255 - image

    monkeypatch.setattr(steps_module, "read_photo", read)
    assert all(result.ok for result in run(restore))
    check_results()


def test_failures_of_every_step_give_their_place_back(folder, monkeypatch):
    monkeypatch.setattr(steps_module, "BYTES_AT_A_TIME", 50)
    Path("in/3.png").write_bytes(Path("in/3.png").read_bytes()[:-20])  # passes the header, not the decoder
    Path("in/4.png").write_bytes(b"no picture")
    Path("out").mkdir()
    Path("out/5.png").mkdir()

    def restore(image, /, *, progress):
        if image[0, 0] == 60:
            raise MemoryError
        return 255 - image

    assert [result.ok for result in run(restore)] == [number not in (3, 4, 5, 6) for number in range(10)]


def test_a_reader_that_waits_for_ever_does_not_keep_the_program(folder, monkeypatch):
    never = threading.Event()

    def read(path, **options):
        if path.stem == "1":
            never.wait(PATIENCE)
        return read_photo(path, **options)

    def restore(image, /, *, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps_module, "read_photo", read)
    monkeypatch.setattr(jobs_module, "_LEFT_BEHIND", 0.1)
    with pytest.raises(KeyboardInterrupt):
        run(restore)
    never.set()


def test_a_budget_wakes_who_waits_when_it_is_closed():
    budget = Budget(10)
    assert budget.book(25) == 10  # all there is
    found = []

    def wait():
        try:
            budget.book(1)
        except Closed:
            found.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    budget.close()
    thread.join(PATIENCE)
    assert found == ["closed"]


# The log --------------------------------------------------------------------------------------------------------------


def logged(settings=None, restore=invert, **options):
    """Run with the log; how many were skipped, and how many failed."""
    ledger = Ledger(Path("log.jsonl"), settings or {"strength": 1})
    results = run(restore, ledger=ledger, **options)
    ledger.close()
    return sum(result.skipped for result in results), sum(not result.ok for result in results)


def lines():
    entries = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] != "settings"]


def test_what_a_log_shows_to_be_done_is_not_done_again(folder):
    assert logged() == (0, 0)
    check_results()
    assert [line["event"] for line in lines()] == ["writing", "done"] * 10
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    assert logged() == (10, 0)
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before
    assert [line["event"] for line in lines()[20:]] == ["skipped"] * 10
    assert lines()[20]["input"] == "in/0.png"


def test_what_counts_is_the_content_of_input_and_output(folder):
    logged()
    Path("out/1.png").unlink()  # missing: done again
    Path("out/2.png").write_bytes(Path("out/3.png").read_bytes())  # another picture: not ours to overwrite
    Path("out/4.png").write_bytes(Path("out/4.png").read_bytes()[:-1])  # cut short: neither
    write_photo(Photo(np.full((6, 8), 99, np.uint8)), "in/5.png", overwrite=True)  # another input
    Path("in/6.png").touch()  # the same content
    assert logged() == (6, 3)
    assert logged(overwrite=True) == (7, 0)
    assert read_photo("out/5.png").pixels[0, 0] == 255 - 99
    assert read_photo("out/2.png").pixels[0, 0] == 255 - 20


def test_a_result_that_has_replaced_its_input_is_done(folder):
    def skipped(source):
        ledger = Ledger(Path("log.jsonl"), {"strength": 1})
        (result,) = run_jobs([Job(Path(source), folder / "in/3.png")], invert, overwrite=True, ledger=ledger)
        ledger.close()
        return result.skipped

    assert not skipped("in/3.png")
    result = Path("in/3.png").read_bytes()
    assert skipped("in/3.png")
    assert Path("in/3.png").read_bytes() == result
    Path("copy.png").write_bytes(result)
    assert not skipped("copy.png")  # which has no result yet
    gray("in/3.png", 70)()
    assert not skipped("in/3.png")


def test_results_of_other_settings_are_not_done(folder):
    logged({"strength": 1})
    assert logged({"strength": 0.5}) == (0, 10)
    assert logged({"strength": 0.5}, overwrite=True) == (0, 0)
    assert logged({"strength": 0.5}) == (10, 0)
    assert logged({"strength": 1}) == (10, 0)  # the same bytes, as it happens, of an earlier line


def test_a_result_that_was_promised_and_never_appeared_is_done(folder):
    ledger = Ledger(Path("log.jsonl"), {"strength": 1})
    (job,) = plan_jobs(["in/0.png"], "out/")
    ledger.promise(job.output, "digest", b"bytes")
    ledger.close()
    assert logged() == (0, 0)
    check_results()


@pytest.mark.parametrize("rest", [b'{"event": "writ', b"\xff\xfe\n", b"null\n[]\n{}\n7\n", b'{"event": "writing"}\n'])
def test_a_log_may_end_anywhere_and_hold_anything(folder, rest):
    logged()
    with Path("log.jsonl").open("ab") as file:
        file.write(rest)
    assert logged() == (10, 0)
    assert logged() == (10, 0)


def test_failures_are_in_the_log_with_their_reason(folder):
    Path("in/4.png").write_bytes(b"no picture")
    assert logged() == (0, 1)
    (failed,) = [line for line in lines() if line["event"] == "failed"]
    assert failed["input"] == "in/4.png"
    assert "it contains text" in failed["error"]


def test_a_log_that_cannot_be_written_is_one_line(folder):
    with pytest.raises(OutputError, match=r"in: can't be written: is a directory; choose another --log"):
        Ledger(Path("in"), {})


# Watching -------------------------------------------------------------------------------------------------------------


class Ended(Exception):
    pass


def watched(*looks, plan=None, clock=lambda: 0.0, **options):
    """The inputs of each batch, all of them restored, where `looks` are called one after another between looks.

    What is reported comes with them, as texts among the lists.
    """
    waits, pauses = iter([*looks, None]), []

    def sleep(seconds):
        pauses.append(seconds)
        change = next(waits)
        if change is None:
            raise Ended
        change()

    found = []
    watch = Watch(plan or planned, found.append, sleep=sleep, clock=clock)

    def work():
        for batch in watch.batches():
            found.append([job.input.name for job in batch])
            for result in run_jobs(batch, invert, **options):
                watch.finished(result.job, made=result.made)
                if not result.ok:
                    found.append(result.error)

    with pytest.raises(Ended):
        work()
    assert all(pause >= SECONDS for pause in pauses)
    return found


def planned(**options):
    return plan_jobs(["in"], "out", may_be_empty=True, **options)


def nothing():
    pass


def gray(path, value):
    return lambda: write_photo(Photo(np.full((6, 8 + value % 7), value, np.uint8)), path, overwrite=True)


def test_files_are_taken_once_they_have_stopped_growing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    whole = write_photo(GRAY, None)

    def grow(until):
        return lambda: Path("in/a.png").write_bytes(whole[:until])

    growing = [grow(10), grow(20), grow(30), grow(None)]
    assert watched(nothing, *growing, nothing, nothing, nothing) == [["a.png"]]
    assert read_photo("out/a.png").pixels[0, 0] == 155


def test_a_file_that_is_written_again_is_restored_again_and_its_result_replaced(folder):
    first = [f"{number}.png" for number in range(10)]
    again = gray("in/3.png", 200)
    assert watched(nothing, nothing, again, nothing, nothing, nothing) == [first, ["3.png"]]
    assert read_photo("out/3.png").pixels[0, 0] == 55


def test_a_result_that_somebody_else_has_changed_is_not_replaced(folder):
    def both():
        gray("in/3.png", 200)()
        gray("out/3.png", 1)()

    found = watched(nothing, nothing, both, nothing, nothing)
    assert found[1] == ["3.png"]
    assert "out/3.png: the file exists" in found[2]
    assert read_photo("out/3.png").pixels[0, 0] == 1


def test_a_file_that_was_there_before_is_no_result_of_the_watch(folder):
    path = Path("in/3.png")
    (marked,) = run_jobs([Job(path, path)], invert, overwrite=True, mark="denoise")  # so the watch skips it
    assert marked.ok
    Path("out").mkdir()
    gray("out/3.png", 1)()
    found = watched(nothing, nothing, gray("in/3.png", 200), nothing, nothing)
    assert found[1] == ["3.png"]
    assert "out/3.png: the file exists" in found[2]
    assert read_photo("out/3.png").pixels[0, 0] == 1


def test_a_result_that_the_log_proves_is_replaced_when_its_input_changes(folder):
    logged()
    ledger = Ledger(Path("log.jsonl"), {"strength": 1})
    found = watched(nothing, nothing, gray("in/3.png", 200), nothing, nothing, ledger=ledger)
    ledger.close()
    assert found[1:] == [["3.png"]]
    assert read_photo("out/3.png").pixels[0, 0] == 55


def test_files_that_go_are_no_more_taken_and_the_end_of_nothing(folder):
    first = [f"{number}.png" for number in range(10)]
    remove = Path("in/3.png").unlink
    assert watched(remove, nothing, nothing) == [[name for name in first if name != "3.png"]]


def test_results_beside_their_inputs_are_never_taken_for_inputs(folder):
    def plan():
        return plan_jobs(["in"], suffix="+", may_be_empty=True)

    first = [f"{number}.png" for number in range(10)]
    # without its input, the result's name says nothing
    assert watched(nothing, Path("in/3.png").unlink, nothing, nothing, nothing, plan=plan) == [first]
    assert len(list(Path("in").iterdir())) == 19


def test_results_in_place_of_their_inputs_are_made_once(folder):
    def plan():
        return plan_jobs(["in"], "in", overwrite=True, may_be_empty=True)

    def overwritten():
        return [replace(job, overwrite=True) for job in plan()]

    first = [f"{number}.png" for number in range(10)]
    assert watched(*[nothing] * 5, plan=overwritten) == [first]
    assert read_photo("in/3.png").pixels[0, 0] == 255 - 30


def test_two_results_of_one_name_end_no_watch(folder):
    def plan():
        return plan_jobs(["in", "more/0.png"], "out", may_be_empty=True)

    Path("more").mkdir()
    gray("more/0.png", 70)()

    def remove():
        Path("in/0.png").unlink()
        Path("out/0.png").unlink()

    found = watched(nothing, nothing, remove, nothing, nothing, plan=plan)
    assert found[0] == [*(f"{number}.png" for number in range(10)), "0.png"]
    assert found[1].startswith("more/0.png: its result and that of in/0.png would both be written to out/0.png")
    assert found[2:] == [["0.png"]]  # once the other has gone
    assert read_photo("out/0.png").pixels[0, 0] == 255 - 70


def test_a_folder_that_is_away_for_a_moment_is_reported_once(folder):
    def away():
        raise InvalidInputError("expected a folder")

    looks = iter([planned, away, away, planned, planned, planned])
    found = watched(*[nothing] * 5, plan=lambda: next(looks)())
    assert found == ["expected a folder", [f"{number}.png" for number in range(10)]]


def test_a_look_that_takes_long_is_followed_by_a_long_pause(folder):
    times = iter(range(0, 1000, 30))
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            raise Ended

    with pytest.raises(Ended):
        list(Watch(planned, pytest.fail, sleep=sleep, clock=lambda: next(times)).batches())
    assert pauses == [300, 300]


def test_pipes_and_bytes_are_nothing_to_watch(folder):
    os.mkfifo("in/pipe.png")
    assert watched(nothing, nothing, plan=lambda: [Job(b"x", None), Job(Path("in/pipe.png"), None)]) == []
