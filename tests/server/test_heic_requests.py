"""HEIC photos: refused unless asked for, then decoded in a child process."""

import io

import numpy as np
import pillow_heif
from serving import Inverting, picture, serving
from test_api import refused, restored

from kbnet.imaging import isolated
from kbnet.server import Limits


def heic():
    pixels, _ = picture(40, 60)
    target = io.BytesIO()
    pillow_heif.encode("RGB", (60, 40), pixels.tobytes(), target, quality=90, chroma=444)
    return target.getvalue()


def test_heic_is_refused_by_default(client):
    assert "--heic" in refused(client.post("/v1/restore", content=heic()), 415)


def test_heic_is_accepted_on_request_and_decoded_in_another_process(monkeypatch):
    asked = []
    decode = isolated.decode

    def recorded(kind, *arguments):
        asked.append(kind)
        return decode(kind, *arguments)

    monkeypatch.setattr(isolated, "decode", recorded)
    with serving(Inverting().provide, Limits(heic=True)) as client:
        reply = client.post("/v1/restore", content=heic(), params={"format": "png", "keep": True})
        result = restored(reply)
        assert result.pixels.shape == (40, 60, 3)
        token = reply.headers["kbnet-result"]
        original = restored(client.get(f"/v1/results/{token}", params={"format": "png", "strength": 0}))
        assert np.array_equal(255 - result.pixels, original.pixels)
        assert "damaged" in refused(client.post("/v1/restore", content=heic()[:400]), 400)
    assert asked == ["heic", "heic"]
