import errno
import os
from pathlib import Path

import numpy as np
import pytest

from kbnet.errors import InvalidInputError, KBNetError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference.jobs import Job, plan_jobs, run_jobs

GRAY = Photo(np.full((6, 8), 100, np.uint8))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def planned(*arguments, **options):
    jobs = plan_jobs(*arguments, **options)
    return {str(job.input): str(job.output) for job in jobs}


def invert(image, /, *, progress):
    progress(1, 1)
    return 255 - image


def outcome(jobs, restore=invert, **options):
    (result,) = run_jobs(jobs, restore, **options)
    return result


def test_results_go_beside_their_inputs_with_a_suffix(here):
    assert planned(["a.png", "b/c.JPG"], suffix="-x") == {"a.png": "a-x.png", "b/c.JPG": "b/c-x.JPG"}
    assert planned(["a.jpeg", "b.jpg"], suffix="-x", format="jpg") == {"a.jpeg": "a-x.jpeg", "b.jpg": "b-x.jpg"}
    assert planned(["a.jpg"], suffix="-x", format="PNG") == {"a.jpg": "a-x.png"}


def test_names_that_say_no_format_keep_all_of_themselves(here):
    assert planned(["scan", "old.dat"], suffix="-x") == {"scan": "scan-x", "old.dat": "old.dat-x.png"}
    assert planned(["scan"], suffix="-x", format="webp") == {"scan": "scan-x.webp"}


def test_output_is_a_file_for_one_file_and_a_folder_otherwise(here):
    touch("in/a.png")
    Path("there").mkdir()
    assert planned(["a.png"], "b.jpg") == {"a.png": "b.jpg"}
    assert planned(["a.png"], "out") == {"a.png": "out"}
    assert planned(["a.png"], "out/") == {"a.png": "out/a.png"}
    assert planned(["a.png"], "there") == {"a.png": "there/a.png"}
    assert planned(["in"], "out") == {"in/a.png": "out/a.png"}
    assert planned(["in/*.png"], "out") == {"in/a.png": "out/a.png"}
    assert planned(["a.png", "x/b.png"], "out", suffix="-y") == {"a.png": "out/a-y.png", "x/b.png": "out/b-y.png"}


def test_trees_are_mirrored_without_hidden_and_other_files(here):
    touch("in/a.png", "in/s/t/b.tif", "in/._a.png", "in/.cache/c.png", "in/notes.txt", "in/film.gif")
    assert planned(["in"], "out") == {"in/a.png": "out/a.png", "in/s/t/b.tif": "out/s/t/b.tif"}
    assert planned([here / "in"], "out", format="jpg") == {
        str(here / "in/a.png"): "out/a.jpg",
        str(here / "in/s/t/b.tif"): "out/s/t/b.jpg",
    }


def test_patterns_are_expanded_and_mirrored_from_their_first_wildcard(here):
    touch("in/x/a.png", "in/y/a.png", "in/y/b.txt", "in/y/z/c.png")
    assert planned(["in/*/a.png"], "out") == {"in/x/a.png": "out/x/a.png", "in/y/a.png": "out/y/a.png"}
    everything = {"in/x/a.png": "out/x/a.png", "in/y/a.png": "out/y/a.png", "in/y/z/c.png": "out/y/z/c.png"}
    assert planned(["in/**"], "out") == planned(["in/*"], "out") == planned(["./in/**/*.png"], "out") == everything
    touch("odd[1].png")
    assert planned(["odd[1].png"], "out/") == {"odd[1].png": "out/odd[1].png"}


def test_earlier_results_are_not_inputs(here):
    touch("in/a.png", "in/a-x.png", "in/a-x-x.png", "in/clean/a.png")
    assert planned(["in"], suffix="-x") == {"in/a.png": "in/a-x.png", "in/clean/a.png": "in/clean/a-x.png"}
    assert list(planned(["in"], "in/clean", suffix="-y")) == ["in/a-x-x.png", "in/a-x.png", "in/a.png"]


def test_the_same_file_reached_twice_is_one_job(here):
    touch("in/a.png")
    assert planned(["in", "in/a.png", "in/../in/a.png"], "out") == {"in/a.png": "out/a.png"}


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ([], {}, "at least one"),
        (["empty"], {}, "folder with images .* found none in empty"),
        (["*.tif"], {}, r"found no match for \*\.tif"),
        (["a.png"], {"format": "bmp"}, "output format, one of png"),
        (["a.png"], {"suffix": "x/y"}, "without folders"),
        (["a.png"], {"output": "b.png", "suffix": "-x"}, "got both"),
        (["a.png"], {"output": "b.bmp"}, "ending in png"),
        (["a.png"], {"output": "b.jpg", "format": "png"}, "the file name says jpeg"),
        (["a.png", "b.png"], {"output": "a.png"}, "expected a folder for the results, got a file"),
        (["a.png", "b.png"], {"output": "c.png"}, "results of several photos, got c.png, whose name is that of a file"),
        (["full"], {"output": "c.png"}, "results of several photos"),
        (["a.png"], {"output": "a.png"}, "its result would replace a.png"),
        (["a.png"], {}, "its result would replace a.png"),
        (["a.png"], {"output": "empty/../a.png"}, "its result would replace empty/../a.png"),
        (["link.png"], {"output": "a.png"}, "its result would replace a.png"),
        (["full"], {"output": "full"}, "full/b.png: its result would replace full/b.png"),
        (["results"], {"suffix": "-denoised"}, "found only results of earlier runs"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(here, inputs, options, words):
    touch("a.png", "full/b.png", "results/a-denoised.png")
    Path("empty").mkdir()
    Path("link.png").symlink_to("a.png")
    with pytest.raises(InvalidInputError, match=words):
        plan_jobs(inputs, **options)


def test_a_file_may_be_its_own_result_only_when_overwriting(here):
    write_photo(GRAY, "a.png")
    result = outcome(plan_jobs(["a.png"], "a.png", overwrite=True), overwrite=True)
    assert result.ok
    assert read_photo("a.png").pixels[0, 0] == 155


def test_a_result_tells_what_happened(here):
    steps = []
    write_photo(Photo(np.full((6, 8), 100, np.uint16)), "a.png")
    (job,) = plan_jobs(["a.png"], "new/deep/a.jpg")
    result = outcome([job], lambda image, /, progress: image, progress=lambda *step: steps.append(step))
    assert (result.job, result.ok, result.error, result.width, result.height) == (job, True, None, 8, 6)
    assert result.notes == ("JPEG is limited to 8 bits per sample: rounded from 16",)
    assert 0 < result.seconds < 60
    assert steps == [(job, 0, 0)]
    assert read_photo("new/deep/a.jpg").bit_depth == 8


def test_bytes_in_and_out():
    data = write_photo(GRAY, None)
    result = outcome([Job(data, None)])
    assert read_photo(result.data).pixels[0, 0] == 155
    assert read_photo(outcome([Job(data, None)], format="tif").data).format == "tiff"
    assert outcome([Job(b"", None)]).error.startswith("the image data: the file is empty")


def test_one_failure_does_not_stop_the_others(here):
    write_photo(GRAY, "a.png")
    failures = iter([MemoryError(), OSError(errno.EIO, "Input/output error"), KBNetError("too odd"), None])
    failures = iter([*failures, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])

    def failing(image, /, *, progress):
        if error := next(failures):
            raise error
        return image

    jobs = [Job(Path("a.png"), Path(f"{i}.png")) for i in range(5)]
    results = list(run_jobs(jobs, failing))
    assert [result.ok for result in results] == [False, False, False, True, False]
    memory = "a.png: not enough memory; use a smaller --tile or close other programs"
    assert [r.error for r in results] == [memory, "a.png: input/output error", "a.png: too odd", None, memory]
    assert sorted(path.name for path in here.iterdir()) == ["3.png", "a.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, RuntimeError])
def test_interruptions_and_mistakes_in_the_program_are_not_swallowed(here, error):
    def broken(image, /, *, progress):
        raise error

    write_photo(GRAY, "a.png")
    with pytest.raises(error):
        list(run_jobs(plan_jobs(["a.png"], "out/"), broken))
    assert [path.name for path in here.iterdir()] == ["a.png"]


def test_what_would_fail_after_the_work_fails_before_it(here):
    touch("taken.png", "file")
    Path("dangling.png").symlink_to("nowhere")
    write_photo(GRAY, "a.png")

    def never(image, /, *, progress):
        raise AssertionError

    for output, words in (
        ("taken.png", "taken.png: the file exists; choose another name or add --overwrite"),
        ("dangling.png", "dangling.png: the file exists"),
        ("file/a.png", "is not a folder"),
    ):
        assert words in outcome([Job(Path("a.png"), Path(output))], never).error
    wide = write_photo(Photo(np.zeros((1, 16400), np.uint8)), None)
    assert "WebP supports at most 16383 pixels per side" in outcome([Job(wide, Path("a.webp"))], never).error


def test_a_folder_that_cannot_be_listed_is_a_failure_of_its_own(here, monkeypatch):
    touch("in/a.png", "in/locked/b.png")
    scandir = os.scandir

    def closed(path):  # modes do not hold root back
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    jobs = plan_jobs(["in"], "out")
    assert [str(job.input) for job in jobs] == ["in/a.png", "in/locked"]
    error = outcome(jobs[1:]).error
    assert error == "in/locked: can't be read: permission denied; check the folder's permissions"
