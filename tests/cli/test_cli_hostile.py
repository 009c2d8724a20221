"""Pictures and places that go wrong: a clear line, the right exit code, no partial files left."""

import contextlib
import json
import os
import signal
import struct
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from cli_files import names, picture, pixels
from PIL import Image

import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals, permissions and limits")


def header_only_png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.fixture
def hostile(tmp_path):
    """A folder of odd pictures, half of which can be restored."""
    folder = tmp_path / "in"
    whole = picture(folder / "whole.png", 100, 150).read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    jpeg = picture(folder / "whole.jpg", 100, 150).read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "letter.png").write_text("Dear Sir,\nthis is a letter.\n")
    (folder / "vast.png").write_bytes(header_only_png(30000, 30000))
    picture(folder / "dot.png", 1, 1)
    picture(folder / "line.png", 1, 5000)
    deep = Photo(pixels(dtype=np.uint16), alpha=pixels(channels=1, dtype=np.uint16, seed=1)[:, :, 0])
    write_photo(deep, folder / "deep.png")
    Image.fromarray(pixels()).quantize(16).save(folder / "palette.png")
    Image.fromarray(pixels()).convert("CMYK").save(folder / "print.jpg")
    frames = [Image.fromarray(pixels(seed=seed)) for seed in range(3)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    return folder


def test_a_folder_of_odd_pictures(restore, hostile, tmp_path):
    output = tmp_path / "out"
    done = restore(hostile, hostile / "film.gif", "-o", output, "--json")
    assert done.code == 1
    facts = {Path(fact["input"]).name: fact for fact in map(json.loads, done.out.splitlines())}
    failures = {
        "empty.png": "the file is empty",
        "cut.png": "the PNG file is truncated",
        "cut.jpg": "the JPEG file is truncated",
        "letter.png": "not an image (it contains text); expected PNG, JPEG, TIFF, WebP, AVIF, HEIC, GIF or BMP",
        "vast.png": "30000 x 30000 is 900.0 megapixels, more than the limit of 250",
        "film.gif": "animations are not supported",
    }
    fine = ["deep.png", "dot.png", "line.png", "palette.png", "print.jpg", "whole.jpg", "whole.png"]
    assert sorted(facts) == sorted([*failures, *fine])
    assert names(output) == fine
    lines = done.err.splitlines()
    assert len(lines) == len(failures) + 1
    assert lines[-1] == "kbnet: error: 6 of 13 files failed"
    for name, words in failures.items():
        assert not facts[name]["ok"]
        (line,) = (line for line in lines if name in line)
        assert line.startswith(f"kbnet: error: {hostile / name}: ")
        assert words in line
    assert all(facts[name]["ok"] for name in fine)
    assert any("CMYK converted to sRGB" in note for note in facts["print.jpg"]["notes"])
    assert "palette expanded to RGB" in facts["palette.png"]["notes"]
    assert (read_photo(output / "line.png").width, read_photo(output / "line.png").height) == (5000, 1)
    deep = read_photo(output / "deep.png")
    assert deep.bit_depth == 16
    assert (deep.alpha == read_photo(hostile / "deep.png").alpha).all()


def test_names_no_terminal_can_print(restore, tmp_path):
    broken = tmp_path / "two\nlines\x1b[31m.png"
    broken.write_bytes(b"x")
    bytes_name = tmp_path / os.fsdecode(b"latin-\xe9.png")
    picture(tmp_path / "a.png").rename(bytes_name)
    done = restore(tmp_path, "-o", tmp_path / "out", "--json")
    assert done.code == 1
    assert [json.loads(line)["ok"] for line in done.out.splitlines()] == [True, False]
    assert all(line.isprintable() for line in done.err.splitlines())
    lines = restore(bytes_name, "-o", tmp_path / "out2/").err.splitlines()
    assert lines[0].startswith(str(tmp_path / "latin-\\udce9.png"))
    assert all(line.isprintable() for line in lines)


@pytest.mark.slow
@needs_posix
def test_unreadable_files_closed_folders_and_full_disks(spawn, tiny, tmp_path):
    tmp_path.chmod(0o777)
    for name in ("a", "secret", "z"):
        picture(tmp_path / "in" / f"{name}.png", 60, 60)
    (tmp_path / "in" / "locked").mkdir()
    (tmp_path / "in" / "secret.png").chmod(0)
    (tmp_path / "in" / "locked").chmod(0)
    for name in ("out", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "tiny").write_bytes(tiny.read_bytes())
    code = """
    import os, resource, signal, sys
    from kbnet.cli import main
    def restore(*arguments):
        print("code", main(["restore", "--model", "tiny", "-q", *arguments]), file=sys.stderr, flush=True)

    # once before, since what is imported on the way may lie where only root can read
    restore("in/a.png", "-o", "out/first.png")
    if os.geteuid() == 0:
        # modes do not hold root back
        os.setgid(65534)
        os.setuid(65534)
    restore("in", "-o", "out")
    restore("in/a.png", "-o", "closed/a.png")
    restore("in/a.png", "-o", "closed/new/a.png")
    # a disk that is full after a thousand bytes
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    restore("in/a.png", "-o", "small/a.png")
    """
    child = spawn(["-c", textwrap.dedent(code)], cwd=tmp_path)
    lines = child.communicate(timeout=100)[1].decode().splitlines()
    assert lines.pop(0) == "code 0"
    assert lines[:4] == [
        "kbnet: error: in/secret.png: can't be read: permission denied; check the path and its permissions",
        "kbnet: error: in/locked: can't be read: permission denied; check the folder's permissions",
        "kbnet: error: 2 of 4 files failed",
        "code 1",
    ]
    assert names(tmp_path / "out") == ["a.png", "first.png", "z.png"]
    for line in (lines[4], lines[6]):
        assert "can't be written: no permission to write in" in line
    assert "small/a.png: can't be written: file too large; write elsewhere" in lines[8]
    assert lines[5::2] == ["code 1"] * 3
    assert len(lines) == 10
    assert names(tmp_path / "closed") == names(tmp_path / "small") == []


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_in_the_middle_of_a_folder(spawn, tiny, tmp_path, number, code, word):
    for index in range(8):
        picture(tmp_path / "in" / f"{index}.png", 320, 320)
    output = tmp_path / "out"
    options = ["--ensemble", "--model", tiny, "-o", output]
    child = spawn(["-m", "kbnet", "restore", tmp_path / "in", *options])
    deadline = time.monotonic() + 60
    while not (output / "0.png").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(getattr(signal, number))
    # what a terminal or a job runner that forwards it does
    child.send_signal(getattr(signal, number))
    error = child.communicate(timeout=60)[1].decode().splitlines()
    assert child.returncode == code
    done = sorted(path.name for path in output.iterdir())
    assert 1 <= len(done) < 8
    assert done == [f"{index}.png" for index in range(len(done))]
    # the last one may have been finished and not yet counted
    ends = [f"kbnet: {word}: {count} of 8 files done, no partial files left" for count in (len(done), len(done) - 1)]
    assert error[-1] in ends
    assert "Traceback" not in error
    for name in done:
        assert read_photo(output / name).width == 320


@needs_posix
def test_a_signal_whose_exception_is_lost_stops_after_the_file(restore, tmp_path, monkeypatch):
    def lossy(pixels, *, progress, **look):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        return pixels

    lossy.runner, lossy.task, lossy.guard = None, "", False
    monkeypatch.setattr(kbnet.Restorer, "from_pretrained", lambda *arguments, **options: lossy)
    for index in range(3):
        picture(tmp_path / "in" / f"{index}.png")
    done = restore(tmp_path / "in", "-o", tmp_path / "out", "-q")
    assert (done.code, done.err) == (143, "kbnet: terminated: 1 of 3 files done, no partial files left\n")
    assert names(tmp_path / "out") == ["0.png"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_pipes_that_are_full_or_closed(spawn, tiny, tmp_path):
    for width, height in ((16, 16), (160, 120)):  # a result that fits into stdout's buffer, and one that doesn't
        source = picture(tmp_path / f"{width}.png", width, height)
        with Path("/dev/full").open("wb") as full:
            child = spawn(["-m", "kbnet", "restore", source, "-o", "-", "-q", "--model", tiny], stdout=full)
            error = child.communicate(timeout=60)[1].decode()
        assert (child.returncode, error) == (1, "kbnet: error: stdout: can't be written: no space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    child = spawn(["-m", "kbnet", "--help"], stdout=writer)
    os.close(writer)
    assert child.communicate(timeout=60)[1] == b""
    assert child.returncode == 1
