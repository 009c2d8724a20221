import json
import re
import signal
import socket
import time
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
    assert (status, line) == (413, "expected at most 0.0001 megapixels, got 32 x 24; send a smaller image")
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130


def test_an_address_that_is_taken_or_not_ours_is_one_line(kbnet_):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = kbnet_("serve", "--port", port)
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith(f"kbnet: error: can't listen on 127.0.0.1 port {port}: address")
    done = kbnet_("serve", "--host", "192.0.2.1", "--port", 0)
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_a_key_that_cannot_be_read_is_one_line(kbnet_, tmp_path):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    done = kbnet_("serve", "--api-key-file", tmp_path / "none")
    assert done.code == 2
    assert "the API key file can't be read: " in done.err


def serving_line(child):
    line = child.stderr.readline().decode()
    assert "serving at http://127.0.0.1:" in line, line
    return line


def test_options_come_from_the_command_line_then_the_environment_then_a_file(spawn, tmp_path, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    (tmp_path / "kbnet.toml").write_text(
        'port = 0\npage = false\nmax-bytes = 1000\nmax_pixels = 7\nlog-format = "json"\n'
    )
    monkeypatch.setenv("KBNET_CONFIG", str(tmp_path / "kbnet.toml"))
    monkeypatch.setenv("KBNET_MAX_BYTES", "2000")
    monkeypatch.setenv("KBNET_MAX_PIXELS", "8")
    monkeypatch.setenv("KBNET_PORT", "tcp://10.0.0.1:8000")  # as Kubernetes sets it, which means nothing here
    child = spawn(["-m", "kbnet", "serve", "--max-pixels", "9"])
    told = json.loads(serving_line(child))
    url = told["message"].split()[2].rstrip(";")

    def post(data):
        try:
            urllib.request.urlopen(urllib.request.Request(url + "v1/restore", data, {"Content-Type": "image/png"}))
        except urllib.error.HTTPError as error:
            return json.loads(error.read())["error"]

    assert "at most 9e-06 megapixels" in post(picture(tmp_path / "a.png").read_bytes()[:1900])
    assert "at most 2000 bytes" in post(bytes(2001))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url)  # no page
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    lines = [json.loads(line) for line in child.stderr.read().decode().splitlines()]
    assert [line["status"] for line in lines] == [413, 413, 404]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-wating = 3", "unknown key 'max-wating'; did you mean max-waiting?"),
        ("zzz = 3", "unknown key 'zzz'; expected one of host, port"),
        ("config = 'x'", "unknown key 'config'"),
        ("port = '80'", "expected port to be a whole number, got '80'"),
        ("port = 1.5", "expected port to be a whole number, got 1.5"),
        ("port = true", "expected port to be a whole number, got True"),
        ("port = 70000", "port: "),
        ("page = 1", "expected page to be true or false, got 1"),
        ("host = 1", "expected host to be a string, got 1"),
        ("log-format = 'xml'", "log-format: "),
        ("port = ", "not a valid TOML file: "),
    ],
)
def test_mistakes_in_the_file_are_one_line_that_names_it(kbnet_, tmp_path, text, words):
    path = tmp_path / "kbnet.toml"
    path.write_text(text)
    done = kbnet_("serve", "--config", path)
    assert done.code == 2
    assert done.err.startswith(f"kbnet: error: {path}: ")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_every_option_has_a_variable_in_the_help(kbnet_):
    help = " ".join(kbnet_("serve", "--help").out.decode().split())
    options = set(re.findall(r"--([a-z][a-z-]+)", help.partition("Options: ")[2])) - {"help", "no-page"}
    assert {"port", "max-bytes", "log-format", "config"} <= options
    for option in options:
        assert f"KBNET_{option.upper().replace('-', '_')}" in help


STUCK = """
import sys, threading
import numpy as np
from kbnet.server import Limits, create_app, run
from kbnet.server.running import listen, url_of

class Stuck:
    def __call__(self, image, /, **options):
        if image.shape[:2] == (8, 8):
            return image
        print("begun", file=sys.stderr, flush=True)
        threading.Event().wait()

app = create_app(Limits(shutdown_seconds=float(sys.argv[1])), provide=lambda name: Stuck(), page=False)
listening = listen("127.0.0.1", 0)
run(app, listening, ready=lambda: print(url_of(listening), file=sys.stderr, flush=True))
"""


@pytest.fixture
def stuck(spawn, tmp_path):
    """A server at work on a picture that takes for ever, beside a refused body that does not end: (child, sockets)."""
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    sockets = []

    def start(seconds):
        child = spawn(["-c", STUCK, seconds])
        port = int(child.stderr.readline().decode().rstrip("/\n").rpartition(":")[2])
        data = picture(tmp_path / f"{seconds}.png").read_bytes()
        for kind, body, length in (
            ("image/png", data, len(data)),
            ("text/html", b"x", 1000),
            ("image/png", b"x", 1000),
        ):
            one = socket.create_connection(("127.0.0.1", port))
            head = f"POST /v1/restore HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
            one.sendall(head.encode() + body)
            sockets.append(one)
        assert child.stderr.readline() == b"begun\n"
        return child

    yield start
    for one in sockets:
        one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server_that_is_stuck(stuck, number):
    child = stuck(1)
    child.send_signal(number)
    assert child.wait(60) == 128 + number  # the work would take for ever


def test_a_second_signal_ends_it_at_once(stuck):
    child = stuck(100_000)
    child.send_signal(signal.SIGTERM)
    time.sleep(1)  # two at once are one
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143


def test_without_the_extra_it_says_what_to_install(kbnet_, monkeypatch):
    monkeypatch.setitem(kbnet.server._HOMES, "create_app", "absent")
    monkeypatch.setattr("importlib.import_module", lambda name: exec("import fastapi_that_is_not_installed"))
    with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[serve\]'"):
        _ = kbnet.server.create_app
