"""`kbnet restore` on what it is meant for."""

import json

import numpy as np
import pytest
import torch
from cli_files import names, picture, pixels
from PIL import Image

from kbnet.cli._restore_options import FORMER_TASKS
from kbnet.cli._restore_options import TASKS as KNOWN_TASKS
from kbnet.imaging import read_photo
from kbnet.models import TASKS, catalogue, create_model, save_file
from kbnet.models.catalogue import FORMER_NAMES


def test_a_picture_is_restored_beside_itself_and_told_in_one_line(restore, tmp_path):
    source = picture(tmp_path / "photo.png")
    done = restore(source)
    assert (done.code, done.out) == (0, b"")
    result = tmp_path / "photo-restored.png"
    assert done.err.startswith(f"{source} → {result}  32×24, ")
    # the random weights of this test may well paint, which is noted
    assert [line for line in done.err.splitlines()[1:] if not line.startswith("  note: ")] == []
    before, after = np.asarray(Image.open(source)), np.asarray(Image.open(result))
    assert before.shape == after.shape
    assert (before != after).any()


def test_nothing_is_overwritten_unless_asked(restore, tmp_path):
    source = picture(tmp_path / "photo.png")
    target = tmp_path / "out.png"
    target.write_bytes(b"precious")
    done = restore(source, "-o", target)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "kbnet: error:" in done.err
    assert "the file exists" in done.err
    assert target.read_bytes() == b"precious"
    assert restore(source, "-o", target, "--overwrite", "--quiet").err == ""
    assert read_photo(target).width == 32


def test_options_reach_the_restorer(restore, tmp_path):
    source = picture(tmp_path / "photo.png", 70, 90)
    original = np.asarray(Image.open(source)).astype(int)

    def restored(*options):
        assert restore(source, "-o", tmp_path / "out.png", "--overwrite", *options).code == 0
        return np.asarray(Image.open(tmp_path / "out.png")).astype(int)

    full = restored("--tile", "0")
    assert (restored("--strength", "0") == original).all()
    half = restored("--strength", "0.5")
    assert abs(half - (full + original) / 2)[(full > 0) & (full < 255)].max() <= 1
    tiled = restored("--tile", "64", "--overlap", "8", "--context", "tile")
    assert abs(tiled - full).max() > 0
    assert (restored("--ensemble") != full).any()


def test_format_and_quality(restore, tmp_path):
    source = picture(tmp_path / "photo.png", 60, 80)
    for quality in (30, 90):
        assert restore(source, "-o", tmp_path / f"{quality}.jpg", "--quality", quality).code == 0
    assert (tmp_path / "30.jpg").stat().st_size < (tmp_path / "90.jpg").stat().st_size
    assert restore(source, "--format", "tif", "--suffix", "+").code == 0
    assert read_photo(tmp_path / "photo+.tif").format == "tiff"


def test_a_folder_becomes_a_tree_with_one_json_object_a_file(restore, tmp_path):
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "sub" / "b.jpg")
    (tmp_path / "in" / "notes.txt").write_text("not a picture")
    (tmp_path / "in" / "bad.png").write_text("not one either")
    done = restore(tmp_path / "in", "-o", tmp_path / "out", "--json", "--suffix", "-new")
    assert done.code == 1
    assert names(tmp_path / "out") == ["a-new.png", "sub/b-new.jpg"]
    facts = [json.loads(line) for line in done.out.splitlines()]
    outcome = ["input", "output", "ok", "error", "seconds", "width", "height", "change"]
    computed = ["model", "runtime", "dtype", "instruction_set"]
    assert [list(fact) for fact in facts] == [[*outcome, *computed, "notes"]] * 3
    assert [fact["model"] is None for fact in facts] == [False, True, False]
    assert [(fact["ok"], fact["width"], fact["height"]) for fact in facts] == [
        (True, 32, 24),
        (False, 0, 0),
        (True, 32, 24),
    ]
    assert "expected PNG" in facts[1]["error"]
    note, first, second = done.err.splitlines()
    assert note == f"kbnet: note: skipped: {tmp_path / 'in' / 'notes.txt'} (not an image)"
    assert first == f"kbnet: error: {facts[1]['error']}"
    assert second == "kbnet: error: 1 of 3 files failed"


def test_quoted_patterns_are_expanded(restore, tmp_path, monkeypatch):
    picture(tmp_path / "x" / "a.png")
    picture(tmp_path / "y" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert restore("*/a.png", "-o", "out", "-q").code == 0
    assert names(tmp_path / "out") == ["x/a.png", "y/a.png"]


def test_pipes(restore, tmp_path):
    source = picture(tmp_path / "photo.png")
    data = source.read_bytes()
    done = restore("-", stdin=data)
    assert done.code == 0
    assert read_photo(done.out).format == "png"
    assert done.err.startswith("- → -  32×24")
    assert restore(source, "-o", "-", "-q").out == done.out
    assert read_photo(restore("-", "-o", "-", "--format", "jpg", stdin=data).out).format == "jpeg"
    told = restore("-", "-o", tmp_path / "out.png", "--json", stdin=data)
    assert json.loads(told.out)["input"] == "-"
    assert (tmp_path / "out.png").read_bytes() == done.out


@pytest.mark.parametrize("data", [b"", b"Dear Sir,"])
def test_a_pipe_without_a_picture(restore, data):
    done = restore("-", stdin=data)
    assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
    assert done.err.startswith("kbnet: error: the image data:")


def test_an_endless_pipe_is_cut_off(restore):
    done = restore("-", "--max-pixels", "10", stdin=bytes((64 << 20) + 200))
    assert done.code == 1
    assert "stdin: more than 67108944 bytes" in done.err


def test_notes_are_printed_unless_quiet(restore, tmp_path):
    source = tmp_path / "palette.png"
    Image.fromarray(pixels()).quantize(16).save(source)
    assert "\n  note: palette expanded to RGB\n" in restore(source).err
    assert restore(source, "-q", "--overwrite").err == ""


def test_the_suffix_says_what_was_done(kbnet_, tmp_path):
    if "denoise" not in {entry.task for entry in catalogue().values() if entry.default}:
        pytest.skip("no weights ship in this tree")
    assert kbnet_("restore", picture(tmp_path / "photo.png")).code == 0
    assert names(tmp_path) == ["photo-denoised.png", "photo.png"]


def test_the_tasks_are_the_catalogues_and_those_of_earlier_releases():
    former = [name for name in FORMER_NAMES if not name.startswith("kbnet-") and name != "denoise-hq"]
    assert {*TASKS, *former, "denoise-gray"} == {*KNOWN_TASKS, *FORMER_TASKS}


def test_an_outbreak_is_noted_and_undone_on_request(kbnet_, tmp_path):
    """A network whose last bias is off paints everything green."""
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.copy_(torch.tensor([-0.4, 0.4, -0.4]))
    save_file(network, tmp_path / "green.safetensors")
    source = picture(tmp_path / "photo.png", 70, 90)
    options = ("--model", tmp_path / "green.safetensors", "-o", tmp_path / "out.png", "--overwrite")
    painted = kbnet_("restore", source, *options)
    assert "note: 100% of the image changed far more than restoration explains" in painted.err
    assert (read_photo(tmp_path / "out.png").pixels != read_photo(source).pixels).any()
    kept = kbnet_("restore", source, *options, "--guard")
    assert "changed far more" not in kept.err
    np.testing.assert_array_equal(read_photo(tmp_path / "out.png").pixels, read_photo(source).pixels)
    refused = kbnet_("restore", source, "--task", "derain", "--guard")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
