"""`kbnet download` against a mirror of this machine; the real one is not reached by any test."""

import pytest
import torch
from cli_files import names

from kbnet.models import PRESETS, KBNetLConfig, build, load_file, save_official
from local_server import serving


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(
        PRESETS, "kbnet-l-derain", KBNetLConfig(width=12, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 2, 2, 4))
    )
    torch.manual_seed(0)
    return build(PRESETS["kbnet-l-derain"])


def test_the_authors_weights_are_fetched(kbnet_, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_official(small, tmp_path / "theirs.pth", "params")
    with serving({"1x-KBNet_derain.pth": (tmp_path / "theirs.pth").read_bytes()}) as (address, _):
        done = kbnet_("download", "kbnet-l-derain", "--mirror", address)
        assert (done.code, done.out) == (0, b"")
        assert "kbnet-l-derain.safetensors; restore with --model kbnet-l-derain.safetensors" in done.err
        assert torch.equal(load_file(tmp_path / "kbnet-l-derain.safetensors").first.weight, small.first.weight)
        again = kbnet_("download", "kbnet-l-derain", "--mirror", address)
        assert again.code == 1
        assert "the file exists" in again.err
        other = kbnet_("download", "kbnet-s-real", "--mirror", address)
        assert other.code == 1
        assert "the mirror returned 404" in other.err
    assert names(tmp_path) == ["kbnet-l-derain.safetensors", "theirs.pth"]
