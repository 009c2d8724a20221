"""The authors' weights from a mirror of this machine: resumed, checked, converted."""

import os

import pytest
import torch

from kbnet.errors import CheckpointError, DownloadError, InvalidInputError, OutputError, OutputExistsError
from kbnet.models import PRESETS, KBNetLConfig, build, create_model, load_file, save_official
from kbnet.nn import download
from local_server import serving

NAME, FILE = "kbnet-l-derain", "1x-KBNet_derain.pth"


@pytest.fixture
def small(monkeypatch):
    """A network small enough for a test, in place of the published one."""
    config = KBNetLConfig(width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4))
    monkeypatch.setitem(PRESETS, "kbnet-l-derain", config)
    torch.manual_seed(0)
    return build(config)


@pytest.fixture
def content(small, tmp_path):
    save_official(small, tmp_path / "authors.pth", "params")
    return (tmp_path / "authors.pth").read_bytes()


def same(path, network):
    found = load_file(path).state_dict()
    return all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_weights_are_fetched_and_kept_as_our_own(tmp_path, small, content):
    seen = []
    with serving({FILE: content}) as (address, _):
        target = download.download(
            NAME, tmp_path / "d.safetensors", mirror=address, progress=lambda *call: seen.append(call)
        )
    assert same(target, small)
    assert seen[-1] == (len(content), len(content))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["authors.pth", "d.safetensors"]


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_an_interrupted_download_goes_on(tmp_path, small, content, ranges):
    target, part = tmp_path / "d.safetensors", tmp_path / f"{FILE}.part"
    with serving({FILE: content}) as (address, handler):
        handler.cut, handler.ranges = 50_000, ranges
        with pytest.raises(DownloadError, match=f"ended after 50000 of {len(content)} bytes; try again to resume"):
            download.download(NAME, target, mirror=address)
        assert part.stat().st_size == 50_000
        assert not target.exists()
        download.download(NAME, target, mirror=address)
        assert handler.requests[-1] == ("GET", f"/{FILE}", "bytes=50000-")
    assert same(target, small)
    assert not part.exists()


def test_a_download_that_was_whole_already_is_not_fetched_again(tmp_path, small, content):
    (tmp_path / f"{FILE}.part").write_bytes(content)
    with serving({FILE: content}) as (address, _):
        assert same(download.download(NAME, tmp_path / "d.safetensors", mirror=address), small)


def test_what_is_not_the_network_is_deleted(tmp_path, small, content):
    other = tmp_path / "other.pth"
    save_official(create_model("kbnet-nano", width=8), other, "model")
    for wrong in (b"<html>not here</html>", other.read_bytes(), content[:-5000]):
        with serving({FILE: wrong}) as (address, _), pytest.raises(CheckpointError, match="was deleted"):
            download.download(NAME, tmp_path / "d.safetensors", mirror=address)
        assert not (tmp_path / "d.safetensors").exists()
        assert not (tmp_path / f"{FILE}.part").exists()


def test_two_downloads_into_one_file_are_refused(tmp_path, small, content):
    target, refused = tmp_path / "d.safetensors", []

    def meanwhile(done, total):
        if not refused:
            with pytest.raises(OutputError, match=r"downloading into .*\.part; wait for it, stop it"):
                download.download(NAME, target, mirror=address)
            refused.append(done)

    with serving({FILE: content}) as (address, _):
        download.download(NAME, target, mirror=address, progress=meanwhile)
    assert refused
    assert same(target, small)


def test_a_link_or_pipe_in_the_place_of_the_bytes_is_refused(tmp_path, content):
    part = tmp_path / f"{FILE}.part"
    (tmp_path / "victim").write_bytes(b"precious")
    part.symlink_to(tmp_path / "victim")
    with serving({FILE: content}) as (address, _):
        with pytest.raises(OutputError, match=r"\.part: can't be written"):
            download.download(NAME, tmp_path / "d.safetensors", mirror=address)
        assert (tmp_path / "victim").read_bytes() == b"precious"
        part.unlink()
        os.mkfifo(part)
        with pytest.raises(OutputError, match=r"\.part is not a regular file"):
            download.download(NAME, tmp_path / "d.safetensors", mirror=address)


def test_a_full_disk_is_named_and_the_download_goes_on_later(tmp_path, small, content, file_size_limit):
    target = tmp_path / "d.safetensors"
    with serving({FILE: content}) as (address, _):
        with file_size_limit(60_000), pytest.raises(OutputError, match=r"\.part: can't be written: file too large"):
            download.download(NAME, target, mirror=address)
        assert (tmp_path / f"{FILE}.part").stat().st_size == 60_000
        assert same(download.download(NAME, target, mirror=address), small)
    assert not (tmp_path / f"{FILE}.part").exists()


def test_an_error_of_the_caller_is_not_blamed_on_the_disk_or_the_mirror(tmp_path, content):
    error = OSError("of the progress bar")

    def broken(done, total):
        raise error

    with serving({FILE: content}) as (address, _), pytest.raises(OSError, match="progress bar") as caught:
        download.download(NAME, tmp_path / "d.safetensors", mirror=address, progress=broken)
    assert caught.value is error


def test_refusals(tmp_path, monkeypatch):
    target = tmp_path / "d.safetensors"
    with serving({}) as (address, _), pytest.raises(DownloadError, match="returned 404"):
        download.download(NAME, target, mirror=address)
    with pytest.raises(DownloadError, match="can't reach"):
        download.download(NAME, target, mirror=address)  # nobody listens there any more
    with pytest.raises(InvalidInputError, match="expected one of kbnet-l-derain, kbnet-s-real"):
        download.download("kbnet-nano", target)
    with pytest.raises(InvalidInputError, match=r"ends in \.safetensors"):
        download.download(NAME, tmp_path / "d.pth")
    with pytest.raises(InvalidInputError, match="expected the https URL"):
        download.download(NAME, target, mirror="http://example.com")
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 10)
    with serving({FILE: b"x" * 100}) as (address, _), pytest.raises(DownloadError, match="the limit is 10"):
        download.download(NAME, target, mirror=address)
    target.write_bytes(b"old")
    with pytest.raises(OutputExistsError):
        download.download(NAME, target)
    assert target.read_bytes() == b"old"
    assert not (tmp_path / f"{FILE}.part").exists()


def test_the_files_are_those_of_presets():
    assert {entry.preset for entry in download.AUTHORS_FILES.values()} <= set(PRESETS)
    assert download.MIRROR.startswith("https://")
