"""Camera raw files: refused unless asked for, then developed in a child process, which also reads the size."""

import sys
from pathlib import Path

import numpy as np
import pytest
from serving import Inverting, serving
from test_api import refused, restored

from kbnet.imaging import isolated, raw, read_photo
from kbnet.server import Limits

pytest.importorskip("rawpy")
sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
from raw_files import dng


def data():
    scene = np.full((48, 64, 3), (0.2, 0.4, 0.1))
    scene[:, 32:] = 0.3
    return dng(scene)


def test_raw_files_are_refused_by_default(client):
    assert "--raw" in refused(client.post("/v1/restore", content=data()), 415)


def test_raw_files_are_developed_in_another_process_on_request(monkeypatch):
    def never(*_):
        raise AssertionError("LibRaw ran in the server's own process")

    monkeypatch.setattr(raw, "_opened", never)
    with serving(Inverting().provide, Limits(raw=True)) as client:
        reply = client.post("/v1/restore", content=data())
        result = restored(reply)
        assert reply.headers["content-type"] == "image/tiff"
        assert (result.pixels.dtype, result.icc_profile) == (np.uint16, raw.profile())
        told = refused(client.post("/v1/restore", content=data()[:2000]), 415)
        assert told.startswith("the image data: the camera raw file is damaged, or its camera is not supported")
        assert "expected a format" in refused(client.post("/v1/restore", content=data(), params={"format": "dng"}), 400)
    monkeypatch.undo()
    assert np.array_equal(65535 - result.pixels, read_photo(data()).pixels)


def test_a_size_beyond_the_limit_is_refused_before_developing(monkeypatch):
    kinds = []
    decode = isolated.decode
    monkeypatch.setattr(isolated, "decode", lambda kind, *more: kinds.append(kind) or decode(kind, *more))
    with serving(Inverting().provide, Limits(raw=True, pixels=1000)) as client:
        assert "megapixels" in refused(client.post("/v1/restore", content=data()), 413)
    assert kinds == ["raw-size"]
