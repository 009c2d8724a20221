import json
import signal
import socket
import urllib.request

import pytest
from cli_files import picture

import kbnet.server
from kbnet.errors import MissingExtraError


@pytest.fixture
def serve(spawn):
    """Start `kbnet serve` on a free port; (the child, its address)."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

    def start(*options):
        child = spawn(["-m", "kbnet", "serve", "--port", "0", "--no-page", *options])
        line = child.stderr.readline().decode()
        assert line.startswith("kbnet: serving at http://127.0.0.1:"), line + child.stderr.read().decode()
        return child, line.split()[3].rstrip(";")

    return start


@pytest.mark.slow
def test_a_picture_goes_there_and_back_and_a_signal_ends_it(serve, tmp_path):
    child, url = serve()
    data = picture(tmp_path / "a.png").read_bytes()
    request = urllib.request.Request(url + "v1/restore", data, {"Content-Type": "image/png"})
    with urllib.request.urlopen(request) as reply:
        assert reply.read(8) == b"\x89PNG\r\n\x1a\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    log = child.stderr.read().decode()
    assert "POST /v1/restore 200" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_limits_and_key_are_those_of_the_command(serve, tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    child, url = serve("--max-pixels", "100", "--max-bytes", "5000", "--api-key-file", tmp_path / "key")
    data = picture(tmp_path / "a.png").read_bytes()

    def post(headers):
        try:
            urllib.request.urlopen(urllib.request.Request(url + "v1/restore", data, headers))
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]

    assert post({"Content-Type": "image/png"})[0] == 401
    status, line = post({"Content-Type": "image/png", "Authorization": "Bearer s3cret"})
    assert (status, line) == (413, "expected at most 0.0001 megapixels, got 32 x 24; send a smaller picture")
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130


def test_an_address_that_is_taken_or_not_ours_is_one_line(kbnet_):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = kbnet_("serve", "--port", port)
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith(
            f"kbnet: error: expected an address to listen on, got 127.0.0.1 port {port}: address"
        )
    done = kbnet_("serve", "--host", "192.0.2.1", "--port", 0)
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_a_key_that_cannot_be_read_is_one_line(kbnet_, tmp_path):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    done = kbnet_("serve", "--api-key-file", tmp_path / "none")
    assert done.code == 2
    assert "file with the API key" in done.err


def test_without_the_extra_it_says_what_to_install(kbnet_, monkeypatch):
    monkeypatch.setitem(kbnet.server._HOMES, "create_app", "absent")
    monkeypatch.setattr("importlib.import_module", lambda name: exec("import fastapi_that_is_not_installed"))
    with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[serve\]'"):
        _ = kbnet.server.create_app
