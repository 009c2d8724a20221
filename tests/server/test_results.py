"""Results that the server keeps for another strength or format."""

from fractions import Fraction

import numpy as np
import pytest
from serving import Inverting, picture, serving
from test_api import refused, restored

from kbnet.imaging import Metadata, Photo, write_photo
from kbnet.imaging.photo import Resolution
from kbnet.inference.look import Look
from kbnet.server import Limits
from kbnet.server.kept import Kept, KeptResult, mixed


def keep(client, data, **parameters):
    reply = client.post("/v1/restore", content=data, params={"keep": True} | parameters)
    restored(reply)
    return reply.headers["kbnet-result"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format", [None, "tiff"])
def test_any_strength_comes_from_one_restoration(client, inverting, dtype, format):
    pixels, _ = picture(dtype=dtype)
    photo = Photo(
        pixels, alpha=pixels[..., 0], metadata=Metadata(resolution=Resolution(Fraction(5), Fraction(5), "cm"))
    )
    token = keep(client, write_photo(photo, None))
    asked = len(inverting.strengths)
    top = np.iinfo(dtype).max
    for strength in (0, 0.25, 0.5, 1):
        parameters = {"strength": strength} | ({"format": format} if format else {})
        reply = client.get(f"/v1/results/{token}", params=parameters)
        result = restored(reply)
        wanted = np.rint(pixels + strength * (top - 2.0 * pixels))
        assert np.array_equal(result.pixels, wanted)
        assert np.array_equal(result.alpha, photo.alpha)
        assert result.metadata.resolution.per("cm") == (pytest.approx(5, rel=1e-2), pytest.approx(5, rel=1e-2))
        assert result.format == (format or "png")
        assert reply.headers["cache-control"] == "no-store"
    assert len(inverting.strengths) == asked


def test_what_another_format_cannot_hold_is_named(client):
    token = keep(client, picture(dtype=np.uint16)[1])
    reply = client.get(f"/v1/results/{token}", params={"format": "jpeg"})
    assert "rounded from 16" in reply.headers["kbnet-notes"]


def test_only_what_was_asked_to_be_kept_is_kept_and_only_its_token_finds_it(client):
    reply = client.post("/v1/restore", content=picture()[1])
    assert "kbnet-result" not in reply.headers
    token = keep(client, picture()[1])
    assert len(token) >= 32
    assert "no result with this token" in refused(client.get("/v1/results/" + "a" * 32), 404)
    assert client.delete(f"/v1/results/{token}").status_code == 204
    refused(client.get(f"/v1/results/{token}"), 404)
    refused(client.delete(f"/v1/results/{token}"), 404)
    refused(client.get("/v1/results/../etc"), 404)
    refused(client.get("/v1/results/a.b"), 400)
    both = client.post("/v1/restore", content=picture()[1], params={"keep": True, "strength": 0.5})
    assert "keep requires strength 1 and detail 0" in refused(both, 400)


def test_how_much_a_result_differs_is_told(client):
    grey = np.full((24, 32, 3), 100, np.uint8)
    reply = client.post("/v1/restore", content=write_photo(Photo(grey), None))
    assert float(reply.headers["kbnet-change"]) == pytest.approx(55 / 255, abs=1e-6)


def test_tokens_are_not_logged(client, caplog):
    caplog.set_level("INFO", "kbnet.server")
    token = keep(client, picture()[1])
    client.get(f"/v1/results/{token}")
    assert "GET /v1/results/... 200" in caplog.text
    assert token not in caplog.text


def test_the_memory_is_counted_and_freed():
    with serving(Inverting().provide) as client:
        token = keep(client, picture(10, 20)[1])
        text = client.get("/metrics").text
        assert "kbnet_kept_results 1.0" in text
        size = len(picture(10, 20)[1]) + 600
        assert f"kbnet_kept_bytes {size}.0" in text
        client.delete(f"/v1/results/{token}")
        assert "kbnet_kept_bytes 0.0" in client.get("/metrics").text


def some(size):
    return KeptResult(b"", np.zeros((1, size), np.uint8))


def test_the_oldest_make_room_and_one_that_is_too_large_is_not_kept():
    kept = Kept(100, 10)
    first, second = kept.put(some(40)), kept.put(some(40))
    assert kept.get(first) is not None  # used last now
    third = kept.put(some(40))
    assert kept.get(second) is None
    assert kept.get(first) is not None
    assert kept.get(third) is not None
    assert kept.put(some(101)) is None
    assert (len(kept), kept.nbytes) == (2, 80)


def test_results_expire_after_their_last_use():
    now = 0.0
    kept = Kept(100, 10, clock=lambda: now)
    used, unused = kept.put(some(1)), kept.put(some(1))
    now = 8.0
    assert kept.get(used) is not None
    now = 12.0
    kept.expire()
    assert kept.get(unused) is None
    assert kept.get(used) is not None
    now = 23.0
    assert kept.get(used) is None
    assert kept.nbytes == 0


def test_a_result_too_large_to_keep_is_still_sent():
    with serving(Inverting().provide, Limits(kept_bytes=100)) as client:
        reply = client.post("/v1/restore", content=picture()[1], params={"keep": True})
        restored(reply)
        assert "kbnet-result" not in reply.headers


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_blends_round_half_to_even_over_many_rows(dtype):
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, np.iinfo(dtype).max + 1, (2, 600, 5), dtype=dtype)
    for strength in (0.0, 0.1, 0.5, 0.999, 1.0):
        wanted = np.rint(before + strength * (after.astype(np.float64) - before)).astype(dtype)
        assert np.array_equal(mixed(before, after, Look(strength)), wanted)
    assert mixed(np.array([[0]], np.uint8), np.array([[5]], np.uint8), Look(0.5)) == 2
