"""Which files are inputs: by name and by content, which files are skipped and why, and how results are told apart."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, read_photo, sniff, write_photo
from kbnet.inference.finding import RESULTS_MARK, mark_results
from kbnet.inference.jobs import plan_jobs, run_jobs
from kbnet.inference.ledger import Ledger

GRAY = Photo(np.full((6, 8), 100, np.uint8))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(*names, format="png"):
    """Write pictures of a format under any names."""
    data = write_photo(GRAY, None, format=format)
    for path in map(Path, names):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def stranger(name, format):
    image = io.BytesIO()
    Image.new("RGB", (8, 6)).save(image, format)
    Path(name).write_bytes(image.getvalue())


def plan(*arguments, **options):
    """({input: output}, {name skipped: why})."""
    missed = {}
    jobs = plan_jobs(*arguments, passed_over=lambda one: missed.setdefault(str(one.path), one), **options)
    return {str(job.input): str(job.output) for job in jobs if job.problem is None}, missed


def invert(image, /, *, progress):
    return 255 - image


# By content -----------------------------------------------------------------------------------------------------------


def test_pictures_are_taken_by_content_where_their_names_say_nothing(here):
    picture("in/a.jfif", "in/b.JPE", "in/scan", "in/c.dat", format="jpeg")
    picture("in/d.tif.bak", format="tiff")
    jobs, missed = plan(["in"], "out")
    assert jobs == {
        "in/a.jfif": jobs["in/a.jfif"],
        "in/b.JPE": jobs["in/b.JPE"],
        "in/scan": "out/scan",
        "in/c.dat": "out/c.jpg",
        "in/d.tif.bak": "out/d.tif.tif",
    }
    assert missed == {}
    for result in run_jobs(plan_jobs(["in"], "out"), invert):
        assert result.ok
        wanted = "tiff" if "tif" in result.job.input.name else "jpeg"
        assert read_photo(result.job.output).format == wanted
        # a JPEG stays one, in its name too
        assert result.job.output.suffix.lower() in ("", ".jpg", ".jpe", ".jfif", ".tif")


def test_a_named_file_keeps_its_format_too(here):
    picture("photo.jfif", "old.dat", format="jpeg")
    jobs, _ = plan(["photo.jfif", "old.dat"], suffix="-x")
    assert Path(jobs["photo.jfif"]).suffix in (".jpg", ".jfif")
    assert jobs["old.dat"] == "old-x.jpg"


def test_what_is_read_but_not_written_becomes_png(here):
    Path("in").mkdir()
    stranger("in/a.gif", "GIF")
    stranger("in/b.bmp", "BMP")
    jobs, missed = plan(["in"], "out")
    assert jobs == {"in/a.gif": "out/a.png", "in/b.bmp": "out/b.png"}
    assert missed == {}
    for result in run_jobs(plan_jobs(["in"], "out"), invert):
        assert "can't be written; the default output format is PNG" in " ".join(result.notes)
        assert read_photo(result.job.output).format == "png"


def test_what_is_passed_over_is_told_with_its_reason(here, monkeypatch):
    monkeypatch.setattr(sniff, "develops_raw", lambda: False)
    picture("in/a.png")
    stranger("in/still.jp2", "JPEG2000")
    stranger("in/x.xyz", "PPM")
    Path("in/notes.txt").write_text("Dear Sir")
    Path("in/x.dng").write_bytes(write_photo(GRAY, None, format="tiff"))
    Path("in/empty").touch()
    jobs, missed = plan(["in"], "out")
    assert jobs == {"in/a.png": "out/a.png"}
    assert {name: one.kind for name, one in missed.items()} == {
        "in/still.jp2": "picture",
        "in/x.xyz": "picture",
        "in/notes.txt": "other",
        "in/x.dng": "picture",
        "in/empty": "other",
    }
    assert "JPEG 2000" in missed["in/still.jp2"].why
    assert "PPM" in missed["in/x.xyz"].why
    assert "raw" in missed["in/x.dng"].why
    assert "not an image" in missed["in/notes.txt"].why
    assert "in/" not in missed["in/still.jp2"].why  # the name is beside it


def test_a_folder_without_a_picture_says_what_it_has_instead(here):
    Path("in").mkdir()
    Path("in/notes.txt").write_text("Dear Sir")
    stranger("in/still.jp2", "JPEG2000")
    with pytest.raises(InvalidInputError, match=r"found none in in; skipped: in/still\.jp2 \(.*JPEG 2000.* and 1 more"):
        plan_jobs(["in"], "out")


def test_a_file_that_is_named_as_well_is_not_passed_over(here):
    Path("in").mkdir()
    stranger("in/still.gif", "GIF")
    jobs, missed = plan(["in", "in/still.gif"], "out", may_be_empty=True)
    assert list(jobs) == ["in/still.gif"]
    assert missed == {}


def test_pipes_and_links_to_folders_are_not_opened(here):
    picture("in/a.png", "elsewhere/b.png")
    os.mkfifo("in/pipe.png")  # opening it would wait for ever
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    Path("in/gone.png").symlink_to("nowhere")
    jobs, missed = plan(["in"], "out")
    assert jobs == {"in/a.png": "out/a.png", "in/gone.png": "out/gone.png"}
    assert "not a regular file" in missed["in/pipe.png"].why
    assert "a link to a folder" in missed["in/link"].why


def test_a_pipe_with_a_log_is_restored_and_not_waited_for(here):
    os.mkfifo("pipe.png")
    reader = os.open("pipe.png", os.O_RDWR)  # so that neither end waits for the other
    os.write(reader, write_photo(GRAY, None))
    ledger = Ledger(Path("log"), {})

    def close_after(image, /, *, progress):
        return 255 - image

    jobs = plan_jobs(["pipe.png"], "out.png")
    import threading

    threading.Timer(0.5, os.close, [reader]).start()
    (result,) = run_jobs(jobs, close_after, ledger=ledger, keep_time=True)
    ledger.close()
    assert result.error is None
    assert read_photo("out.png").pixels[0, 0] == 155


# Results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["-denoised", "-derained", ""])
def test_results_of_any_earlier_run_are_no_inputs(here, suffix):
    picture("in/a.png", "in/a-denoised.jpg", "in/a-derained.png", "in/a-denoised-derained.png", "in/b-framed.png")
    jobs, missed = plan(["in"], None if suffix else "out", suffix=suffix)
    assert sorted(jobs) == ["in/a.png", "in/b-framed.png"]
    assert {one.kind for one in missed.values()} == {"result"}
    assert len(missed) == 3


def test_results_whose_originals_have_gone_are_inputs_of_other_tasks(here):
    picture("in/a-denoised.png", "in/b.png")
    assert list(plan(["in"], suffix="-derained")[0]) == ["in/a-denoised.png", "in/b.png"]
    assert list(plan(["in"], suffix="-denoised")[0]) == ["in/b.png"]
    assert list(plan(["in/a-denoised.png"], suffix="-denoised")[0]) == ["in/a-denoised.png"]  # named by itself


def test_what_a_shell_expands_may_hold_earlier_results(here):
    picture("a.png", "a-denoised.png", "b.png")
    jobs, missed = plan(["a-denoised.png", "a.png", "b.png"], suffix="-denoised")
    assert jobs == {"a.png": "a-denoised.png", "b.png": "b-denoised.png"}
    assert "named like a result of a" in missed["a-denoised.png"].why


def test_a_folder_of_results_inside_the_pictures_is_remembered(here):
    picture("in/a.png", "in/sub/b.png")
    mark_results(Path("in/clean"), [Path("in")])
    picture("in/clean/a.png", "in/clean/sub/b.png")
    expected = {"in/a.png": "in/rain/a.png", "in/sub/b.png": "in/rain/sub/b.png"}
    jobs, missed = plan(["in"], "in/rain")
    assert jobs == expected
    assert "a folder of results" in missed["in/clean"].why
    assert list(plan(["in/**/*.png"], "other")[0]) == ["in/a.png", "in/sub/b.png"]
    assert list(plan(["in/clean"], "other")[0]) == ["in/clean/a.png", "in/clean/sub/b.png"]  # by its name
    assert "it skips folders that contain this file" in Path("in/clean", RESULTS_MARK).read_text()


def test_folders_of_results_elsewhere_are_not_marked(here):
    picture("in/a.png")
    for output in ("out", "in", "."):
        mark_results(Path(output), [Path("in"), Path("in/a.png")])
    assert not list(here.rglob(RESULTS_MARK))


def test_patterns_pass_over_the_output_folder(here):
    picture("in/a.png", "in/out/a.png")
    assert list(plan(["in/**/*.png"], "in/out")[0]) == ["in/a.png"]
    Path("link").symlink_to("in/out")
    assert list(plan(["in"], "link")[0]) == ["in/a.png"]


# Names ----------------------------------------------------------------------------------------------------------------


def test_results_of_one_name_keep_their_inputs_endings(here):
    picture("in/a.jpg", "in/a.png", "in/b.png", "in/c.webp", "in/c.tif")
    jobs = plan_jobs(["in"], "out", format="webp")
    assert {str(job.input): str(job.output) for job in jobs} == {
        "in/a.jpg": "out/a.jpg.webp",
        "in/a.png": "out/a.png.webp",
        "in/b.png": "out/b.webp",
        "in/c.tif": "out/c.tif.webp",
        "in/c.webp": "out/c.webp",
    }
    assert jobs[0].notes == ("saved as a.jpg.webp, because several results would be named a.webp",)
    assert jobs[2].notes == ()
    assert plan(["in/a.jpg", "in/a.png"], suffix="-x", format="webp")[0] == {
        "in/a.jpg": "in/a.jpg-x.webp",
        "in/a.png": "in/a.png-x.webp",
    }


def test_a_job_that_would_undo_another_is_its_own_failure(here):
    picture("x/a.png", "y/a.png", "y/b.png")
    results = list(run_jobs(plan_jobs(["x/a.png", "y/a.png", "y/b.png"], "out"), invert))
    assert [result.ok for result in results] == [True, False, True]
    assert results[1].error == (
        "y/a.png: its result and that of x/a.png would both be written to out/a.png; restore them separately"
    )
    picture("a.png", "a-x.png")
    before = Path("a-x.png").read_bytes()
    results = list(run_jobs(plan_jobs(["a.png", "a-x.png"], suffix="-x", overwrite=True), invert, overwrite=True))
    assert [result.ok for result in results] == [False, True]
    assert (
        results[0].error
        == "a.png: its result would replace a-x.png, which is also an input; choose another output or suffix"
    )
    assert Path("a-x.png").read_bytes() == before


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*/../../secret/*.png", "out/secret/s.png"),
        ("top/in/*/../../../*/*/s.png", None),
        ("in/x/../*/a.png", "out/x/a.png"),
        ("top/../*/s.png", "out/secret/s.png"),
    ],
)
def test_no_pattern_writes_outside_the_output_folder(here, pattern, expected):
    picture("in/x/a.png", "top/in/x/a.png", "secret/s.png", "secret/deep/s.png")
    output = next(iter(plan([pattern], "out")[0].values()))
    assert ".." not in Path(output).parts
    assert Path(output).resolve().is_relative_to(here / "out")
    if expected is not None:
        assert output == expected


# Effort ---------------------------------------------------------------------------------------------------------------


def test_a_plan_asks_the_file_system_about_folders_and_not_about_every_file(here, monkeypatch):
    count = 300
    for folder in ("in", "in/sub"):
        picture(*(f"{folder}/{number}.jpg" for number in range(count)), format="jpeg")
    asked = {"realpath": 0, "stat": 0}

    def counting(name, function):
        def call(*arguments, **options):
            asked[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os.path, "realpath", counting("realpath", os.path.realpath))
    monkeypatch.setattr(Path, "stat", counting("stat", Path.stat))
    assert len(plan_jobs(["in"], "out")) == 2 * count
    assert asked["realpath"] < 20
    assert asked["stat"] < 20


def test_content_is_looked_at_once_and_again_when_it_has_changed(here, monkeypatch):
    from kbnet.inference import finding

    looked = []
    monkeypatch.setattr(
        finding, "sniff", lambda file, name, sniff=finding.sniff: looked.append(name) or sniff(file, name)
    )
    finding._content.cache_clear()
    Path("in").mkdir()
    Path("in/a.part").write_bytes(b"\xff")
    assert plan(["in"], "out", may_be_empty=True)[0] == {}
    assert plan(["in"], "out", may_be_empty=True)[0] == {}
    assert looked == ["in/a.part"]
    picture("in/a.part", format="jpeg")
    assert list(plan(["in"], "out")[0]) == ["in/a.part"]
    assert len(looked) == 2


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["no", "missing.png", "n", "missing"])
def test_a_missing_file_is_named_whatever_the_output_is_called(here, output):
    (result,) = run_jobs(plan_jobs(["missing.jpg"], output, format="png"), invert)
    assert result.error == "missing.jpg: no such file; check the path"


def test_a_failure_names_the_file_whatever_it_says(here):
    picture("a.png")

    def failing(image, /, *, progress):
        raise OSError(5, "a.png is what it begins with")

    (result,) = run_jobs(plan_jobs(["a.png"], "b.png"), failing)
    assert result.error == "a.png: a.png is what it begins with"


@pytest.mark.parametrize("keep", [True, False])
def test_results_have_the_time_of_their_input_when_asked(here, keep):
    picture("a.png")
    os.utime("a.png", ns=(10**18, 10**18 + 5))
    (result,) = run_jobs(plan_jobs(["a.png"], "b.png"), invert, keep_time=keep)
    assert result.ok
    assert (Path("b.png").stat().st_mtime_ns == 10**18 + 5) is keep


def test_a_result_says_how_much_it_changed(here):
    picture("a.png")
    (result,) = run_jobs(plan_jobs(["a.png"], "b.png"), invert)
    assert result.change == pytest.approx(55 / 255)
    (result,) = run_jobs(plan_jobs(["a.png"], "b.png"), invert)  # it exists
    assert result.change is None
