"""Batches that respect a library: exclusion, the mark of results, sidecars, numbers, quality, times, a full disk."""

import errno
import os
import stat
import sys

import numpy as np
import pytest
from PIL import Image
from test_jobs import invert, outcome, planned, touch

from kbnet import files
from kbnet.errors import OutputError
from kbnet.imaging import FORMATS, Block, Metadata, Photo, read_photo, write_photo, xmp
from kbnet.inference.jobs import Job, plan_jobs, run_jobs
from kbnet.inference.marking import is_marked, marked
from kbnet.inference.sidecars import copy_sidecars


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


PHOTO = Photo(np.full((20, 30, 3), 90, np.uint8))
PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="mine"/></rdf:RDF>'
    b"</x:xmpmeta>"
)
ROTATED = PACKET.replace(b'dc:source="mine"', b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"')


# ---- exclusion


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.png"], ["a.jpg", "raw/c.jpg", "raw/old/d.jpg", "sub/e.jpg"]),
        (["raw"], ["a.jpg", "b.png", "sub/e.jpg"]),
        (["raw/"], ["a.jpg", "b.png", "sub/e.jpg"]),
        (["raw/*"], ["a.jpg", "b.png", "sub/e.jpg"]),
        (["raw/old/*"], ["a.jpg", "b.png", "raw/c.jpg", "sub/e.jpg"]),
        (["?.jpg", "nothing"], ["b.png"]),
        ([], ["a.jpg", "b.png", "raw/c.jpg", "raw/old/d.jpg", "sub/e.jpg"]),
    ],
)
@pytest.mark.parametrize("named", ["photos", "photos/**/*.*"])
def test_excluded_files_and_folders_are_not_inputs(here, patterns, left, named):
    touch(*(f"photos/{name}" for name in ("a.jpg", "b.png", "raw/c.jpg", "raw/old/d.jpg", "sub/e.jpg")))
    found = planned([named], "out", exclude=patterns)
    assert sorted(found) == [f"photos/{name}" for name in left]


def test_a_file_that_is_named_is_not_excluded(here):
    touch("a.jpg")
    assert planned(["a.jpg"], "b.jpg", exclude=["*"]) == {"a.jpg": "b.jpg"}


# ---- the mark of results


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("packet", [None, PACKET])
def test_results_are_recognised_by_their_metadata(here, format, packet):
    ending = {"jpeg": "jpg", "tiff": "tif"}.get(format, format)
    metadata = Metadata((Block("xmp", packet),)) if packet else Metadata()
    write_photo(Photo(PHOTO.pixels, metadata=metadata), f"a.{ending}")
    result = outcome(plan_jobs([f"a.{ending}"], "b/"), mark="denoise")
    assert result.ok
    path = here / "b" / f"a.{ending}"
    assert is_marked(path)
    assert not is_marked(here / f"a.{ending}")
    found = read_photo(path).metadata.first("xmp")
    assert b'kbnet:Task="denoise"' in found
    assert xmp.is_well_formed(found)
    assert packet is None or b'dc:source="mine"' in found
    # wherever it is moved to, and whatever its name
    moved = here / "photos" / f"other.{ending}"
    moved.parent.mkdir()
    path.rename(moved)
    write_photo(PHOTO, moved.with_name("original.png"))
    results = {result.job.input.name: result for result in run_jobs(plan_jobs(["photos"], "out"), invert)}
    assert (here / "out" / "original.png").exists()
    skipped = results[f"other.{ending}"]
    assert (skipped.ok, skipped.skipped, skipped.is_marked) == (True, True, True)
    assert "by its metadata" in skipped.notes[0]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["original.png"]
    assert outcome(plan_jobs([moved], "again.png")).skipped is False  # named


def test_a_mark_is_kept_and_not_repeated_and_not_added_unless_asked(here):
    write_photo(PHOTO, "a.png")
    outcome(plan_jobs(["a.png"], "b.png"), mark="denoise")
    outcome(plan_jobs(["b.png"], "c.png"), mark="deblur")
    assert read_photo("c.png").metadata == read_photo("b.png").metadata
    outcome(plan_jobs(["a.png"], "d.png"))
    assert read_photo("d.png").metadata == Metadata()


@pytest.mark.parametrize("prefix", [b"", b"r:", b"rdf:"])
def test_the_mark_follows_the_prefix_of_the_packet(prefix):
    name = b"xmlns:" + prefix[:-1] if prefix else b"xmlns"
    packet = b"<" + prefix + b"RDF " + name + b'="http://www.w3.org/1999/02/22-rdf-syntax-ns#"></' + prefix + b"RDF>"
    made = xmp.marked(packet, "denoise", "1.0")
    assert xmp.is_well_formed(made)
    assert xmp.MARK in made


def test_malformed_xmp_stays_as_it_is():
    metadata = Metadata((Block("xmp", b"<x:xmpmeta><oops"),))
    assert marked(metadata, "denoise") == metadata


# ---- sidecars


def test_sidecars_go_with_their_photo(here):
    write_photo(PHOTO, "IMG_1.jpg")
    (here / "IMG_1.xmp").write_bytes(ROTATED)
    (here / "IMG_1.jpg.xmp").write_bytes(PACKET)
    (here / "IMG_1.AAE").write_bytes(b"<plist/>")
    (here / "IMG_2.xmp").write_bytes(PACKET)
    os.utime("IMG_1.AAE", ns=(10**18, 10**18))
    result = outcome(plan_jobs(["IMG_1.jpg"], suffix="-denoised"), sidecars=True)
    assert result.ok
    names = {path.name for path in here.iterdir()}
    assert names >= {"IMG_1-denoised.xmp", "IMG_1-denoised.jpg.xmp", "IMG_1-denoised.AAE"}
    assert b'tiff:Orientation="1"' in (here / "IMG_1-denoised.xmp").read_bytes()  # results are upright
    assert (here / "IMG_1-denoised.jpg.xmp").read_bytes() == PACKET
    assert (here / "IMG_1-denoised.AAE").stat().st_mtime_ns == 10**18
    assert not any("IMG_2" in name and "denoised" in name for name in names)


def test_sidecars_never_replace_others(here):
    write_photo(PHOTO, "a.jpg")
    (here / "a.xmp").write_bytes(PACKET)
    (here / "b.xmp").write_bytes(b"another")
    assert copy_sidecars(here / "a.jpg", here / "b.jpg", overwrite=False) == (
        "the sidecar b.xmp exists and is not replaced",
    )
    assert (here / "b.xmp").read_bytes() == b"another"
    assert copy_sidecars(here / "a.jpg", here / "b.jpg", overwrite=True) == ()
    assert (here / "b.xmp").read_bytes() == PACKET
    assert copy_sidecars(here / "a.jpg", here / "b.jpg", overwrite=False) == ()  # the same already
    assert copy_sidecars(here / "a.jpg", here / "a.jpg", overwrite=True) == ()


@pytest.mark.parametrize("result", ["a.jpg", "a.png"])
def test_a_sidecar_that_would_be_its_own_copy_is_not_changed(here, result):
    """Of a result in place, or of another format beside the photo: then both have the same one."""
    write_photo(PHOTO, "a.jpg")
    write_photo(PHOTO, result, overwrite=True)
    (here / "a.xmp").write_bytes(ROTATED)
    (here / "a.aae").write_bytes(b"<plist/>")
    (here / "b").mkdir()
    said = copy_sidecars(here / "a.jpg", here / "b" / ".." / result, overwrite=True)
    assert said == ("the sidecar a.xmp keeps its orientation, but the result is upright",)
    assert (here / "a.xmp").read_bytes() == ROTATED
    assert copy_sidecars(here / "a.jpg", here / result, overwrite=True, upright=False) == ()
    (here / "a.xmp").write_bytes(PACKET)
    assert copy_sidecars(here / "a.jpg", here / result, overwrite=True) == ()


def test_a_sidecar_that_is_too_large_is_not_cut(here):
    write_photo(PHOTO, "a.jpg")
    with (here / "a.xmp").open("wb") as file:
        file.truncate((64 << 20) + 1)
    assert copy_sidecars(here / "a.jpg", here / "b.jpg", overwrite=False) == (
        "the sidecar a.xmp is not copied (it is larger than 64 MiB)",
    )
    assert not (here / "b.xmp").exists()


# ---- numbers


def test_clashing_names_get_numbers(here):
    touch("x/a.png", "y/a.png", "z/a.png")
    jobs = plan_jobs(["x/a.png", "y/a.png", "z/a.png"], "out/", number="clashes")
    assert [job.output.name for job in jobs] == ["a.png", "a-2.png", "a-3.png"]
    assert all(job.problem is None for job in jobs)
    assert jobs[1].notes == ("named a-2.png, since a.png is taken",)
    touch("out/a.png")
    assert [job.output.name for job in plan_jobs(["x/a.png"], "out/", number="clashes")] == ["a.png"]
    assert [job.output.name for job in plan_jobs(["x/a.png"], "out/", number="all")] == ["a-2.png"]


def test_numbers_avoid_inputs_and_each_other(here):
    touch("a.png", "a-2.png")
    jobs = plan_jobs(["a.png", "a-2.png"], number="all")
    assert [job.output.name for job in jobs] == ["a-3.png", "a-2-2.png"]


# ---- existing results, times, mode


def test_existing_results_are_skipped_on_request(here):
    write_photo(PHOTO, "a.png")
    touch("b.png")
    result = outcome(plan_jobs(["a.png"], "b.png"), skip_existing=True)
    assert (result.ok, result.skipped, result.made) == (True, True, False)
    assert (here / "b.png").read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_results_have_the_mode_of_their_input(here, mode):
    """A private photo stays private."""
    write_photo(PHOTO, "a.png")
    (here / "a.png").chmod(mode)
    assert outcome(plan_jobs(["a.png"], "b.png")).ok
    assert stat.S_IMODE((here / "b.png").stat().st_mode) == mode


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root may give files away")
def test_results_have_the_owner_of_their_input(here):
    write_photo(PHOTO, "a.png")
    os.chown("a.png", 1234, 2345)
    assert outcome(plan_jobs(["a.png"], "b.png")).ok
    found = (here / "b.png").stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)


# ---- the same quality


@pytest.mark.parametrize("quality", [30, 75, 92])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_same_quality_repeats_tables_and_subsampling(here, quality, subsampling, progressive):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    image.save("a.jpg", quality=quality, subsampling=subsampling, progressive=progressive)
    assert outcome(plan_jobs(["a.jpg"], "b.jpg"), same_quality=True).ok
    with Image.open("a.jpg") as before, Image.open("b.jpg") as after:
        assert after.quantization == before.quantization
        assert after.layer == before.layer
        assert bool(after.info.get("progressive")) == progressive
    assert 0.6 < (here / "b.jpg").stat().st_size / (here / "a.jpg").stat().st_size < 1.6


def test_gray_and_other_formats_with_the_same_quality(here):
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).save("a.jpg", quality=60)
    assert outcome(plan_jobs(["a.jpg"], "b.jpg"), same_quality=True).ok
    with Image.open("a.jpg") as before, Image.open("b.jpg") as after:
        assert after.quantization == before.quantization
    assert outcome(plan_jobs(["a.jpg"], "b.png"), same_quality=True).ok
    write_photo(PHOTO, "c.png")
    assert outcome(plan_jobs(["c.png"], "c.jpg"), same_quality=True).ok  # its usual quality


# ---- a full disk


def test_a_full_disk_ends_the_run(here, monkeypatch):
    for name in "abcde":
        write_photo(PHOTO, f"{name}.png")
    write = files.write

    def full(data, target, **options):
        if target.name == "b.png":
            raise OutputError(f"{target}: cannot be written: no space left on device") from OSError(
                errno.ENOSPC, "full"
            )
        write(data, target, **options)

    def with_errno(data, target, **options):
        try:
            full(data, target, **options)
        except OutputError as error:
            error.errno = errno.ENOSPC
            raise

    monkeypatch.setattr(files, "write", with_errno)
    jobs = [Job(here / f"{name}.png", here / "out" / f"{name}.png") for name in "abcde"]
    results = list(run_jobs(jobs, invert))
    assert [(result.job.input.stem, result.ok, result.full) for result in results] == [
        ("a", True, False),
        ("b", False, True),
    ]
    assert sorted(path.name for path in (here / "out").iterdir()) == ["a.png"]
