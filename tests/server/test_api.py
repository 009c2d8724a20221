import json
import os
import re
import struct
import sys
import zlib

import httpx
import numpy as np
import pytest
from serving import Inverting, picture, serving

import kbnet
from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference import steps
from kbnet.server import Limits, create_app
from kbnet.server import limits as limits_module

PNG_TYPE = {"Content-Type": "image/png"}


def restored(reply):
    assert reply.status_code == 200, reply.text
    return read_photo(reply.content)


def refused(reply, status):
    """The one line of a refusal."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.json()) == ["error"]
    line = reply.json()["error"]
    assert line.isprintable()
    assert "Traceback" not in line
    return line


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("gray", [False, True])
def test_a_picture_comes_back_in_its_own_format_depth_and_channels(client, format, dtype, gray):
    pixels, data = picture(dtype=dtype, gray=gray, format=format)
    reply = client.post("/v1/restore", content=data, headers={"Content-Type": f"image/{format}"})
    photo = restored(reply)
    assert reply.headers["content-type"] == f"image/{format}"
    assert reply.headers["cache-control"] == "no-store"
    assert float(reply.headers["kbnet-seconds"]) >= 0
    assert (photo.format, photo.pixels.dtype) == (format, dtype)
    assert np.array_equal(photo.pixels, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_the_bytes_tell_the_format_whatever_the_sender_calls_them(client, kind):
    pixels, data = picture()
    request = client.build_request("POST", "/v1/restore", content=data)
    if kind is not None:
        request.headers["Content-Type"] = kind
    assert np.array_equal(restored(client.send(request)).pixels, 255 - pixels)


def test_a_form_carries_the_picture_in_its_field(client):
    pixels, data = picture()
    reply = client.post("/v1/restore", files={"image": ("cat.png", data, "image/png")})
    assert np.array_equal(restored(reply).pixels, 255 - pixels)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/x", "a\\..\\b.png", "x" * 3000, "\u202e.png", ""])
def test_the_file_name_of_a_form_is_never_used(client, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, data = picture()
    restored(client.post("/v1/restore", files={"image": (name, data)}))
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_obeyed(client, inverting):
    pixels, data = picture(dtype=np.uint16)
    reply = client.post("/v1/restore", content=data, params={"strength": 0.25, "task": "denoise", "format": "jpg"})
    assert restored(reply).format == "jpeg"
    assert json.loads(reply.headers["kbnet-notes"]) == ["JPEG is limited to 8 bits per sample: rounded from 16"]
    assert inverting.strengths[-1] == 0.25
    assert inverting.asked[-1] == "denoise"
    reply = client.post("/v1/restore", content=data, params={"task": "kbnet-nano-denoise"})
    assert inverting.asked[-1] == "kbnet-nano-denoise"
    before = len(inverting.strengths)
    reply = client.post("/v1/restore", content=data, params={"strength": 0})
    assert np.array_equal(restored(reply).pixels, pixels)
    assert len(inverting.strengths) == before  # nothing to compute


def bomb(width, height):
    """A PNG of a few bytes whose header promises width x height pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"content": b"", "headers": PNG_TYPE}, 400, "got an empty body"),
        (
            {"content": b"no picture"},
            400,
            "not an image .it contains text.; expected PNG, JPEG, TIFF, WebP, AVIF, HEIC, GIF or BMP",
        ),
        ({"content": picture()[1][:-30]}, 400, "truncated or damaged"),
        ({"content": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"}, 415, "HEI"),
        ({"content": bytes(50_001)}, 413, "expected at most 50000 bytes, got at least 50001"),
        ({"content": (bytes(9_000) for _ in range(9))}, 413, "expected at most 50000 bytes, got at least [0-9]+"),
        ({"files": {"image": bytes(50_001)}}, 413, "expected at most 50000 bytes"),
        ({"content": picture(50, 50)[1]}, 413, r"expected at most 0.002 megapixels, got 50 x 50"),
        ({"content": bomb(65535, 65535)}, 413, "got 65535 x 65535"),
        ({"json": {}}, 415, "got Content-Type application/json; send the file"),
        ({"content": b"{}", "headers": PNG_TYPE | {"Content-Encoding": "gzip"}}, 415, "without Content-Encoding"),
        ({"files": {"picture": b"x"}}, 400, "only the field 'image', got 'picture'; put options into the query"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 400, "got 'image', 'image'"),
        ({"files": {"image": b"x"}, "data": {"task": "denoise"}}, 400, "got 'image', 'task'"),
        ({"files": {"image": b""}}, 400, "the field 'image' is empty"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "multipart form"),
        (
            {"content": b"--b\r\nContent-Dis", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
            400,
            "form is truncated",
        ),
        ({"content": picture()[1], "params": {"task": "paint"}}, 400, "one of denoise, .*got 'paint'"),
        ({"content": picture()[1], "params": {"format": "gif"}}, 400, "one of png, .*got 'gif'"),
        ({"content": picture()[1], "params": {"strength": "1.5"}}, 400, "strength should be less than or equal to 1"),
        ({"content": picture()[1], "params": {"strength": "nan"}}, 400, "strength should be a finite number"),
        ({"content": picture()[1], "params": {"strength": "much"}}, 400, "strength should be a valid number"),
        ({"content": picture()[1], "params": {"progress": "../x"}}, 400, "parameter progress should match pattern"),
    ],
)
def test_what_cannot_be_served_gets_its_status_and_one_line(client, request_, status, words):
    assert re.search(words, refused(client.post("/v1/restore", **request_), status))


def test_addresses_and_methods_that_are_not_there(client):
    assert "not found; see /docs" in refused(client.get("/v2"), 404)
    assert "not found; see /docs" in refused(client.get("/redoc"), 404)
    assert "GET is not allowed here" in refused(client.get("/v1/restore"), 405)
    assert "no request with this token" in refused(client.get("/v1/progress/abcdefgh"), 404)
    refused(client.get("/v1/progress/short"), 400)


def test_models_are_those_of_the_catalogue(client):
    listed = client.get("/v1/models").json()
    assert [model["name"] for model in listed["models"]] == [entry.name for entry in kbnet.list_models()]
    assert listed["tasks"][0] == "denoise"
    assert listed["models"][0]["metrics"] == kbnet.list_models()[0].metrics


def test_health_and_counts(client):
    assert client.get("/healthz").json() == {"status": "ok", "version": kbnet.__version__}
    _, data = picture(10, 20)

    def pixels():
        text = client.get("/metrics").text
        found = re.search(
            r'^kbnet_pixels_total\{model="kbnet-nano-denoise",task="denoise"\} (\S+)$', text, re.MULTILINE
        )
        return float(found[1]) if found else 0.0

    before = pixels()
    restored(client.post("/v1/restore", content=data))
    assert pixels() == before + 200
    client.get("/some/where/new")
    text = client.get("/metrics").text
    assert 'kbnet_requests_total{method="POST",path="/v1/restore",status="200"}' in text
    assert "/some/where/new" not in text
    assert 'path="other",status="404"' in text


def test_replies_tell_browsers_to_take_nothing_for_granted(client):
    headers = client.get("/healthz").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_openapi_describes_what_is_answered(client):
    described = client.get("/openapi.json").json()
    restore = described["paths"]["/v1/restore"]["post"]
    assert set(restore["responses"]) == {"200", "400", "401", "403", "408", "413", "415", "429", "500", "503"}
    assert "multipart/form-data" in restore["requestBody"]["content"]
    task = next(parameter for parameter in restore["parameters"] if parameter["name"] == "task")
    assert task["schema"]["enum"][0] == "denoise"
    assert "ValidationError" not in described["components"]["schemas"]


KEY = "s3cret"


@pytest.fixture(scope="module")
def locked():
    with serving(Inverting().provide, api_key=KEY, hosts=["127.0.0.1"]) as client:
        yield client


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}])
def test_a_key_opens_what_it_locks(locked, headers):
    _, data = picture()
    for path in ("/v1/models", "/metrics"):
        assert locked.get(path, headers=headers).status_code == 200
    restored(locked.post("/v1/restore", content=data, headers=headers))


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "other"}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "ä"}])
def test_without_the_key_nothing_is_told(locked, headers):
    for path in ("/v1/models", "/metrics", "/v1/nothing", "/v1/progress/abcdefgh"):
        reply = locked.get(path, headers=[(k, v.encode()) for k, v in headers.items()])
        assert "expected the server's API key" in refused(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"
    refused(locked.post("/v1/restore", content=picture()[1]), 401)
    assert locked.get("/healthz").status_code == 200


def test_other_names_and_other_sites_are_turned_away(locked):
    assert "'evil.example'" in refused(locked.get("/healthz", headers={"Host": "evil.example:80"}), 403)
    refused(locked.get("/healthz", headers={"Host": "[::"}), 403)
    headers = {"X-API-Key": KEY, "Sec-Fetch-Site": "cross-site"}
    assert "another site" in refused(locked.post("/v1/restore", content=picture()[1], headers=headers), 403)


def test_a_mistake_in_the_server_is_told_without_its_words(client, inverting, monkeypatch, caplog):
    def broken(self, image, /, **options):
        raise ZeroDivisionError("secret of ours")

    monkeypatch.setattr(Inverting, "__call__", broken)
    line = refused(client.post("/v1/restore", content=picture()[1]), 500)
    assert "internal error in kbnet" in line
    assert "secret" not in line
    assert "secret of ours" in caplog.text  # the log has them
    monkeypatch.undo()
    restored(client.post("/v1/restore", content=picture()[1]))  # and the next one is served


def test_memory_that_runs_out_is_no_mistake(client, monkeypatch):
    def broken(self, image, /, **options):
        raise MemoryError

    monkeypatch.setattr(Inverting, "__call__", broken)
    reply = client.post("/v1/restore", content=picture()[1])
    assert "not enough memory" in refused(reply, 503)
    assert reply.headers["retry-after"] == "10"


def test_the_log_holds_no_content(client, caplog):
    caplog.set_level("DEBUG", "kbnet")
    client.post("/v1/restore?task=denoise", files={"image": ("private-name.png", picture()[1])})
    assert "POST /v1/restore 200" in caplog.text
    assert "private-name" not in caplog.text
    assert "task=" not in caplog.text


def test_pictures_are_never_written_to_disk():
    opened, watching = [], True

    def hook(event, arguments):
        writes = os.O_WRONLY | os.O_RDWR
        if watching and event == "open" and isinstance(arguments[2], int) and arguments[2] & writes:
            opened.append(arguments[0])

    _, data = picture(800, 900)
    assert len(data) > 2 << 20  # forms of that size are usually spooled to files
    sys.addaudithook(hook)
    try:
        with serving(Inverting().provide) as client:
            restored(client.post("/v1/restore", files={"image": data}))
            restored(client.post("/v1/restore", content=data, headers=PNG_TYPE))
    finally:
        watching = False
    assert opened == []


@pytest.mark.parametrize(
    "limits", [{"bytes": 0}, {"pixels": -1}, {"waiting": 1.5}, {"seconds": float("nan")}, {"kept_bytes": True}]
)
def test_senseless_limits_are_refused(limits):
    with pytest.raises(InvalidInputError, match=r"of at least [01], got"):
        Limits(**limits)


@pytest.mark.parametrize(("free", "megapixels"), [(10**12, 100), (96_000_000, 1), (0, 1e-6)])
def test_limits_that_are_not_given_follow_from_the_memory(monkeypatch, free, megapixels):
    monkeypatch.setattr(limits_module, "_free_bytes", lambda: free)
    limits = Limits()
    assert limits.pixels == megapixels * 1e6
    assert limits.kept_bytes == max(min(free // 8, 10**9), 1)
    assert limits.all_bytes == (8 * 10**8 if free == 10**12 else limits.bytes)
    assert limits_module.BYTES_PER_PIXEL == 4 * 2 * steps.COPIES  # of samples with alpha, of bytes, of copies
    given = Limits(pixels=7, kept_bytes=8, all_bytes=9)
    assert (given.pixels, given.kept_bytes, given.all_bytes) == (7, 8, 9)


def test_an_application_needs_models_and_a_key_that_is_one():
    with pytest.raises(InvalidInputError, match="at least one model"):
        create_app(models=[], page=False)
    with pytest.raises(InvalidInputError, match="empty one"):
        create_app(api_key=" ", page=False)


def test_the_real_restorer_gives_what_it_gives_anywhere():
    pixels, data = picture(40, 50)
    with serving(None) as client:
        reply = client.post("/v1/restore", content=data, params={"strength": 0.5})
    assert np.array_equal(restored(reply).pixels, kbnet.Restorer.from_pretrained("denoise")(pixels, strength=0.5))


def test_metadata_and_transparency_go_through(client):
    pixels, _ = picture(dtype=np.uint16)
    photo = Photo(pixels, alpha=pixels[..., 0])
    reply = client.post("/v1/restore", content=write_photo(photo, None))
    assert np.array_equal(restored(reply).alpha, photo.alpha)


def test_a_client_that_speaks_no_http_is_no_trouble(client):
    import socket

    with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
        raw.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert isinstance(client.get("/healthz"), httpx.Response)
