"""Whole images in memory: how much of it they take, and what is refused because it would not fit."""

import os
import subprocess
import sys

import numpy as np
import pytest
from small_networks import kbnet_s, noise, on_cpu

from kbnet.errors import NotEnoughMemoryError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference import ram, steps
from kbnet.inference.jobs import plan_jobs, run_jobs
from kbnet.inference.samples import ArraySamples, Turned
from kbnet.inference.tiles import turn
from kbnet.models import save_file

MOST = 32  # bytes a pixel
SMALL, LARGE = (800, 800), (2400, 2400)


def peak(*command):
    """The maximum resident size of a process, bytes."""
    # A child's maximum counts what its parent held when it was started, so a small process starts it.
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    child = subprocess.run(
        [sys.executable, "-c", code, sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr
    return int(child.stdout.splitlines()[-1]) * (1 if sys.platform == "darwin" else 1024)


def bytes_a_pixel(measure):
    (a, b), (c, d) = SMALL, LARGE
    return (measure(LARGE) - measure(SMALL)) / (c * d - a * b)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(kbnet_s(1), path)
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
def test_a_restored_file_takes_at_most_32_bytes_a_pixel(tmp_path, tiny):
    def measure(size):
        path = tmp_path / f"{size[0]}.png"
        write_photo(Photo(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)), path)
        # Tiles without shared averages: the crops for those would take a constant amount that hides the rest.
        options = ["--tile", "256", "--overlap", "16", "--context", "tile", "--model", tiny, "--quiet"]
        return peak("-m", "kbnet", "restore", path, "-o", tmp_path / f"{size[0]}-restored.png", *options)

    found = bytes_a_pixel(measure)
    assert 3 < found <= MOST


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage")
@pytest.mark.parametrize(("kind", "own"), [("np.uint8", 3), ("np.float32", 12)])
def test_an_array_takes_little_more_than_itself_and_its_result(tiny, kind, own):
    def measure(size):
        code = f"""
import numpy as np
import kbnet

image = np.zeros({(*size, 3)}, {kind})
image[:] = 1  # so that its memory is in use
kbnet.Restorer.from_pretrained({str(tiny)!r}, tile=256, overlap=16, context="tile")(image)
"""
        return peak("-c", code)

    found = bytes_a_pixel(measure)
    assert own < found <= 2 * own + 4


# Refusals -------------------------------------------------------------------------------------------------------------


def test_an_image_that_does_not_fit_is_refused_before_the_network_runs(monkeypatch):
    monkeypatch.setattr(ram, "free_memory", lambda: 40_000_000)
    calls = []
    restorer = on_cpu(kbnet_s(1), tile="auto")
    image = np.broadcast_to(np.zeros((), np.uint8), (2000, 6000, 3))
    with pytest.raises(
        NotEnoughMemoryError,
        match=r"^6000 x 2000 pixels need .* but only 40 MB is free; restore the file with --str",
    ):
        restorer(image, progress=lambda *call: calls.append(call))
    assert calls == []
    assert restorer(image[:60, :90]).shape == (60, 90, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tile": 0}, "the full frame"), ({"tile": 64, "overlap": 16, "ensemble": True}, "an ensemble")],
)
def test_settings_that_make_it_too_large_are_named(monkeypatch, options, words):
    image = np.zeros((300, 400, 3), np.uint8)
    plain = on_cpu(kbnet_s(1), tile=64, overlap=16)
    monkeypatch.setattr(ram, "free_memory", lambda: 1_800_000)
    with pytest.raises(NotEnoughMemoryError, match=f"with {words}.*don't use {words}.*with --stream"):
        on_cpu(kbnet_s(1), **options)(image)
    assert plain(image).shape == image.shape  # without them it fits


def test_memory_that_is_unknown_refuses_nothing(monkeypatch):
    monkeypatch.setattr(ram, "free_memory", lambda: None)
    assert on_cpu(kbnet_s(1))(noise(40, 40, 3)).shape == (40, 40, 3)


def invert(image, /, *, progress):
    return 255 - image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number, side in enumerate((20, 60, 20)):
        write_photo(Photo(np.full((side, side, 3), number, np.uint8)), tmp_path / "in" / f"{number}.png")


def test_a_file_that_does_not_fit_is_refused_before_it_is_decoded_and_others_are_not(folder, monkeypatch):
    monkeypatch.setattr(ram, "free_memory", lambda: 20 * 20 * 3 * steps.COPIES)
    decoded = []
    monkeypatch.setattr(
        steps, "read_photo", lambda path, **options: decoded.append(path.name) or read_photo(path, **options)
    )
    results = list(run_jobs(plan_jobs(["in"], "out"), invert))
    assert [result.ok for result in results] == [True, False, True]
    assert results[1].error.startswith("in/1.png: 60 x 60 pixels need ")
    assert "--stream" in results[1].error
    assert decoded == ["0.png", "2.png"]


def test_a_file_waits_for_the_memory_of_others_before_it_is_refused(folder, monkeypatch):
    """As soon as nothing else is in memory, the second fits."""
    jobs, at_work = plan_jobs(["in"], "out"), []

    def restore(image, /, *, progress):
        at_work.append(len(image))
        return 255 - image

    whole = 60 * 60 * 3 * steps.COPIES
    written = []
    monkeypatch.setattr(ram, "free_memory", lambda: whole if written else whole - 1)
    write = steps.write_photo
    monkeypatch.setattr(steps, "write_photo", lambda *args, **options: written.append(1) or write(*args, **options))
    assert [result.error for result in run_jobs(jobs, restore)] == [None, None, None]
    assert at_work == [20, 60, 20]


# Parts of images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(8))
def test_a_turned_image_reads_as_the_image_that_was_turned(index):
    array = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    turned = Turned(ArraySamples(array, array.copy(), (0.0, 255.0)), index)
    expected = turn(array.transpose(2, 0, 1)[None], index)
    assert (turned.channels, turned.height, turned.width) == expected.shape[1:]
    rows, cols = np.array([3, 4, 5, 6, 5]), np.arange(turned.width)
    part = np.round(turned.read(rows, cols) * 255)
    np.testing.assert_array_equal(part, expected[:, :, rows])
