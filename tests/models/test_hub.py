"""Repositories of the hub, against a server of this machine that speaks as much of its interface as is needed."""

import sys

import pytest
import torch

from kbnet.errors import CheckpointError, DownloadError, InvalidInputError, MissingExtraError, UnknownModelError
from kbnet.inference import Restorer
from kbnet.models import create_model, find, hub, load_model, read_weights, resolve, save_file
from local_server import serving

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An empty hub that the library takes for the real one, with an empty cache."""
    files = {}
    with serving(files) as (address, handler):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        handler.address = address
        yield handler


def test_shipped_weights_go_there_and_back(server):
    address = hub.push_to_hub("denoise", "user/clean", token="hf_token", endpoint=server.address)
    assert address == f"{server.address}/user/clean"
    uploaded = ("README.md", "credits.tsv", "kbnet.json", "model.safetensors")
    assert sorted(server.files) == [f"user/clean/{name}" for name in uploaded]
    shipped = load_model("denoise").state_dict()
    found = load_model("user/clean").state_dict()
    assert all(torch.equal(found[key], value) for key, value in shipped.items())
    entry, restorer = find("denoise"), Restorer.from_pretrained("user/clean")
    assert (restorer.context, restorer.window, restorer.name) == (entry.context, entry.window, "user/clean")
    assert Restorer.from_pretrained("user/clean", context="tile").context == "tile"


def test_the_card_says_what_the_catalogue_says():
    entry = find("denoise")
    card = hub.model_card(read_weights(resolve("denoise")), "user/clean", entry)
    head, body = card.split("---\n")[1:]
    assert "license: cc-by-sa-4.0\n" in head
    assert "library_name: kbnet\n" in head
    for text in (entry.summary, entry.license, entry.training_data, entry.measured_by, entry.history, "2.36 million"):
        assert text in body
    for name, value in entry.metrics.items():
        assert f"| {name} | {value:.2f} |" in body
    assert 'from_pretrained("user/clean")' in body


def test_what_was_fetched_works_without_the_hub(server, tmp_path, monkeypatch):
    torch.manual_seed(0)
    save_file(create_model("kbnet-nano", width=8, bases=4), tmp_path / "mine.safetensors")
    hub.push_to_hub(
        tmp_path / "mine.safetensors", "user/mine", license="Mine alone", token="hf_token", endpoint=server.address
    )
    assert 'license: other\nlicense_name: "Mine alone"\n' in server.files["user/mine/README.md"].decode()
    first = load_model("user/mine")
    server.files.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.requests)
    again = load_model("user/mine")
    assert torch.equal(first.first.weight, again.first.weight)
    with pytest.raises(DownloadError, match="user/other: the Hugging Face Hub request failed"):
        load_model("user/other")
    assert len(server.requests) == asked


def test_weights_that_were_put_there_by_hand_need_no_settings(server, tmp_path):
    save_file(create_model("kbnet-nano", width=8, bases=4), tmp_path / "m.safetensors")
    server.files["user/hand/model.safetensors"] = (tmp_path / "m.safetensors").read_bytes()
    assert Restorer.from_pretrained("user/hand").context == "global"
    server.files["user/hostile/model.safetensors"] = b"\x80\x02cos\nsystem\n"
    with pytest.raises(CheckpointError, match="is damaged or contains more than tensors"):
        load_model("user/hostile")
    server.files["user/empty/README.md"] = b""
    with pytest.raises(DownloadError, match="user/empty"):
        load_model("user/empty")


def test_names_of_files_are_not_taken_for_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/mine", "user/model.safetensors", "denoise", "/user/repo", "../repo", "a/b/c", "user/"):
        assert not hub.is_repository(name)
    assert hub.is_repository("user/repo-1.5")
    with pytest.raises(UnknownModelError):
        load_model("runs/mine")


def test_refusals(server, monkeypatch):
    with pytest.raises(InvalidInputError, match="expected a repository as user/repo"):
        hub.push_to_hub("denoise", "clean")
    with pytest.raises(DownloadError, match="user/clean"):
        hub.push_to_hub("denoise", "user/clean", token="wrong", endpoint=server.address)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[hub\]'"):
        load_model("user/clean")


def test_a_weights_file_needs_a_license(tmp_path):
    save_file(create_model("kbnet-nano", width=8), tmp_path / "m.safetensors")
    with pytest.raises(InvalidInputError, match="specify their license"):
        hub.push_to_hub(tmp_path / "m.safetensors", "user/m")
