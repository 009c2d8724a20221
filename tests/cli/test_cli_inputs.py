"""Folders as people have them: other formats, names that clash, earlier results; and what the command says of each."""

import json
import os

import pytest
from cli_files import names, picture, pixels
from PIL import Image

from kbnet.cli._restore_conflicts import CONFLICTS
from kbnet.cli._restore_options import RestoreOptions
from kbnet.imaging import read_photo
from kbnet.inference import Restorer
from kbnet.inference.finding import RESULTS_MARK


def lossy(path):
    """A JPEG of any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(120, 160)).save(path, "JPEG", quality=90)
    return path


def test_a_folder_names_what_it_passes_over_and_takes_the_rest_by_content(restore, tmp_path):
    lossy(tmp_path / "in" / "a.jfif")
    lossy(tmp_path / "in" / "b.jpe")
    lossy(tmp_path / "in" / "noname")
    for number in range(12):
        (tmp_path / "in" / f"{number:02}.txt").write_text("Dear Sir")
    done = restore(tmp_path / "in", "-o", tmp_path / "out")
    assert done.code == 0
    made = names(tmp_path / "out")
    assert len(made) == 3
    for name in made:
        assert read_photo(tmp_path / "out" / name).format == "jpeg"
    notes = [line for line in done.err.splitlines() if line.startswith("kbnet: note: skipped: ")]
    (note,) = notes  # a line for each reason
    assert "00.txt, " in note
    assert "and 2 more (not an image)" in note
    assert restore(tmp_path / "in", "-o", tmp_path / "out2", "-q").err == ""


def test_a_jpeg_of_any_name_stays_one(restore, tmp_path):
    source = lossy(tmp_path / "photo.jfif")
    assert restore(source, "--quality", 90).code == 0
    (result,) = (path for path in tmp_path.iterdir() if path != source)
    assert result.name in ("photo-restored.jpg", "photo-restored.jfif")
    assert read_photo(result).format == "jpeg"
    assert result.stat().st_size < 2 * source.stat().st_size


def test_results_of_one_name_are_told_apart(restore, tmp_path):
    lossy(tmp_path / "in" / "a.jpg")
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b.png")
    done = restore(tmp_path / "in", "-o", tmp_path / "out", "--format", "webp")
    assert done.code == 0
    assert names(tmp_path / "out") == ["a.jpg.webp", "a.png.webp", "b.webp"]
    assert done.err.count("note: saved as a.") == 2


def test_one_clash_does_not_stop_the_others(restore, tmp_path):
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        picture(tmp_path / name)
    inputs = (tmp_path / "x" / "a.png", tmp_path / "y" / "a.png", tmp_path / "y" / "b.png")
    done = restore(*inputs, "-o", tmp_path / "out")
    assert done.code == 1
    assert names(tmp_path / "out") == ["a.png", "b.png"]
    assert f"{inputs[1]}: its result and that of {inputs[0]} would both be written to" in done.err


def test_a_second_task_leaves_the_results_of_the_first_alone(kbnet_, tmp_path):
    picture(tmp_path / "in" / "a.png")
    assert kbnet_("restore", tmp_path / "in").code == 0
    done = kbnet_("restore", tmp_path / "in", "--task", "derain")
    assert done.code == 0
    assert names(tmp_path / "in") == ["a-denoised.png", "a-derained.png", "a.png"]
    assert "skipped: " in done.err
    assert "named like a result of " in done.err


def test_a_second_run_into_another_folder_leaves_the_first_alone(restore, tmp_path):
    picture(tmp_path / "in" / "a.png")
    assert restore(tmp_path / "in", "-o", tmp_path / "in" / "first").code == 0
    assert restore(tmp_path / "in", "-o", tmp_path / "in" / "second").code == 0
    assert names(tmp_path / "in") == [
        "a.png",
        f"first/{RESULTS_MARK}",
        "first/a.png",
        f"second/{RESULTS_MARK}",
        "second/a.png",
    ]


def test_two_pictures_do_not_go_into_one(restore, tmp_path):
    inputs = [picture(tmp_path / name) for name in ("a.png", "b.png")]
    done = restore(*inputs, "-o", tmp_path / "two.png")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "expected a folder for the results of several photos" in done.err
    assert names(tmp_path) == ["a.png", "b.png"]
    assert restore(*inputs, "-o", f"{tmp_path / 'two.png'}/", "-q").code == 0
    assert names(tmp_path / "two.png") == ["a.png", "b.png"]


@pytest.mark.parametrize("output", ["no", "m", "missing"])
def test_a_missing_file_is_named(restore, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    done = restore("missing.png", "-o", output)
    assert (done.code, done.err) == (1, "kbnet: error: missing.png: no such file; check the path\n")


@pytest.mark.parametrize("options", [(), ("--overwrite",), ("--no-keep-time",), ("--stream",)])
def test_results_have_the_time_of_their_pictures(restore, tmp_path, options):
    source = picture(tmp_path / "a.png", 80, 80)
    os.utime(source, (1577919600, 1577919600))
    assert restore(source, "-o", tmp_path / "b.png", *options).code == 0
    kept = (tmp_path / "b.png").stat().st_mtime == 1577919600
    assert kept is ("--no-keep-time" not in options)


@pytest.mark.parametrize(("dtype", "options"), [("auto", ()), ("float32", ()), ("float32", ("--stream",))])
def test_json_says_which_weights_were_used_and_how_they_were_computed(kbnet_, tmp_path, dtype, options):
    picture(tmp_path / "colour.png")
    Image.new("L", (40, 32), 90).save(tmp_path / "gray.png")
    photos = (tmp_path / "colour.png", tmp_path / "gray.png")
    done = kbnet_("restore", *photos, "-o", f"{tmp_path}/out/", "--dtype", dtype, "--json", *options)
    assert done.code == 0, done.err
    told = [json.loads(line) for line in done.out.splitlines()]
    colour = Restorer.from_pretrained("denoise", dtype=dtype)
    for fact, used in zip(told, (colour, colour.suited(1)), strict=True):
        assert (fact["model"], fact["runtime"], fact["dtype"]) == (used.name, used.runner.runtime, used.dtype)
        assert (fact["instruction_set"] is not None) == (used.runner.runtime == "engine")


# What changed, and what chooses the model -----------------------------------------------------------------------------


def test_a_picture_that_hardly_changes_says_so_and_what_else_to_try(kbnet_, tmp_path):
    flat = tmp_path / "flat.png"
    Image.new("RGB", (64, 64), (90, 120, 150)).save(flat)
    done = kbnet_("restore", flat, "-o", tmp_path / "out.png")
    assert done.code == 0
    assert "note: hardly any change (mean 0." in done.err
    assert "try --task derain or --task deblur" in done.err
    told = json.loads(kbnet_("restore", flat, "-o", tmp_path / "again.png", "--json").out)
    assert 0 <= told["change"] < 0.002
    assert any("hardly any change" in note for note in told["notes"])
    noisy = json.loads(kbnet_("restore", picture(tmp_path / "noise.png"), "-o", tmp_path / "c.png", "--json").out)
    assert noisy["change"] > 0.02
    assert not any("changed" in note for note in noisy["notes"])


@pytest.mark.parametrize(
    ("preset", "model"), [(None, "kbnet-nano-"), ("fast", "kbnet-nano-"), ("best", "kbnet-small-")]
)
def test_a_preset_chooses_between_the_models_of_a_task(kbnet_, tmp_path, monkeypatch, preset, model):
    from kbnet import Restorer

    chosen = []
    load = Restorer.from_pretrained

    def seen(name, **options):
        restorer = load(name, **options)
        chosen.append(restorer.name)
        return restorer

    monkeypatch.setattr(Restorer, "from_pretrained", seen)
    options = ("--preset", preset) if preset else ()
    source = picture(tmp_path / "a.png")
    assert kbnet_("restore", source, "--task", "denoise-gaussian", *options, "-q").code == 0
    assert chosen[-1].startswith(model)  # the one for gray pictures comes before it


def test_former_names_of_tasks_still_work_and_say_so(kbnet_, tmp_path):
    done = kbnet_("restore", picture(tmp_path / "a.png"), "--task", "denoise-real")
    assert done.code == 0
    assert names(tmp_path) == ["a-denoised.png", "a.png"]
    assert "kbnet: note: denoise-real is now called denoise" in done.err or "denoise-real" not in done.err


# Options that do not go together --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["a.png", "-o", "b.png", "--preset", "best", "--model", "kbnet-nano-derain"],
            "conflicts with --model; leave one of them out",
        ),
        (["a.png", "-o", "b.png", "--stream", "--quality", "3"], "results are lossless"),
        (["a.png", "-o", "b.png", "--stream", "--engine", "ray"], "leave out --engine ray"),
        (["a.png", "-o", "b.png", "--workers", "2"], "'--workers': needs --engine ray"),
        (["a.png", "-o", "b.png", "--address", "auto"], "'--address': needs --engine ray"),
        (["s3://bucket/a.png", "-o", "b.png"], "URLs need --engine ray"),
        (["-", "-o", "b.png", "--engine", "ray"], "Ray needs files or URLs"),
        (["-", "--log", "x.jsonl"], "needs files or folders, not a pipe"),
        (["pipe", "-o", "out/", "--watch"], "needs files or folders, not a pipe"),
        (["pipe", "-o", "out.png", "--stream"], "needs files, not a pipe"),
    ],
)
def test_contradictions_are_one_line_and_start_nothing(kbnet_, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    done = kbnet_("restore", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, b"", 1)
    assert words in done.err
    assert names(tmp_path) == ["pipe"]


def test_every_conflict_is_one_of_an_option_and_says_what_to_do():
    plain = RestoreOptions(inputs=["a.png"])
    for conflict in CONFLICTS:
        assert conflict.option == "INPUT" or conflict.option == "OUTPUT" or conflict.option.startswith("'--")
        assert not conflict.applies(plain)
        assert conflict.words[0].islower() or conflict.words.startswith(("Ray", "--"))
