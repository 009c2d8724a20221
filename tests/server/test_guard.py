"""Who may ask and how: parameters, methods, origins, and what is logged."""

import json
import logging

import pytest
from serving import picture
from test_api import refused, restored

from kbnet.server.logs import show_messages


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("stength=0", "unknown query parameter 'stength'; did you mean strength?"),
        ("quality=10", "unknown query parameter 'quality'; did you mean format?"),
        ("model=denoise", "unknown query parameter 'model'; did you mean task?"),
        (
            "zzz=1",
            "unknown query parameter 'zzz'; this route has: task, preset, strength, color_strength, detail, "
            "format, progress, keep",
        ),
        ("strength=1&strength=0", "the query parameter 'strength' is repeated; pass it once"),
    ],
)
def test_unknown_parameters_are_refused(client, query, words):
    reply = client.post(f"/v1/restore?{query}", content=picture()[1])
    assert words in refused(reply, 400)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/metrics", "/v1/results/" + "a" * 32])
def test_unknown_parameters_are_refused_on_every_route(client, path):
    assert "unknown query parameter 'x'" in refused(client.get(path, params={"x": 1}), 400)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/metrics", "/openapi.json", "/docs"])
def test_head_is_get_without_a_body(client, path):
    got, head = client.get(path), client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # whose counts grow
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_what_is_no_get(client):
    assert client.head("/v1/restore").status_code == 405
    assert client.head("/nothing").status_code == 404


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Origin": "https://127.0.0.1:{port}"}, True),  # TLS may end at a proxy
        ({"Origin": "http://other.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://[bad"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://seen.example"}, True),  # a proxy that changes Host
        ({"Sec-Fetch-Site": "none"}, True),
    ],
)
def test_pages_of_other_origins_are_turned_away(client, headers, served):
    headers = {name: value.format(port=client.base_url.port) for name, value in headers.items()}
    reply = client.post("/v1/restore", content=picture()[1], headers=headers)
    if served:
        restored(reply)
    else:
        assert "another site's page" in refused(reply, 403)
    assert client.get("/healthz", headers=headers).status_code == 200


def test_every_reply_has_a_request_id_which_a_proxy_may_choose(client, caplog):
    caplog.set_level("INFO", "kbnet.server")
    first, second = (client.get("/v1/models").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert (
        client.get("/v1/models", headers={"X-Request-ID": "from-a.proxy_1"}).headers["x-request-id"] == "from-a.proxy_1"
    )
    for odd in ("a b", "x" * 65, "<script>"):
        assert client.get("/v1/models", headers={"X-Request-ID": odd}).headers["x-request-id"] != odd
    assert caplog.records[0].request == first


def test_polling_for_progress_and_health_is_not_logged(client, caplog):
    caplog.set_level("INFO", "kbnet.server")
    client.get("/v1/progress/abcdefgh")
    client.get("/healthz")
    client.get("/metrics")
    assert caplog.records == []
    client.get("/v1/progress/short")
    assert [record.status for record in caplog.records] == [400]


@pytest.fixture
def logged(capsys):
    """Set up the server's log as the command does; the lines that it wrote."""
    loggers = [logging.getLogger(name) for name in ("kbnet.server", "uvicorn.error")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]

    def lines(format, level="info"):
        show_messages(format=format, level=level)
        return lambda: capsys.readouterr().err.splitlines()

    yield lines
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


def test_json_logs_have_a_line_for_each_request(client, logged):
    lines = logged("json")
    reply = client.post("/v1/restore", content=b"no picture")
    (line,) = lines()
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told.pop("seconds") >= 0
    assert told.pop("message").startswith("POST /v1/restore 400")
    assert told == {
        "level": "info",
        "logger": "kbnet.server.guard",
        "request": reply.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/restore",
        "status": 400,
    }


def test_a_mistake_in_the_worker_is_logged_with_its_request(client, inverting, logged, monkeypatch):
    lines = logged("json", "error")
    monkeypatch.setattr(type(inverting), "__call__", lambda *_, **__: 1 / 0)
    reply = client.post("/v1/restore", content=picture()[1])
    refused(reply, 500)
    told = [json.loads(line) for line in lines()]
    assert {one["request"] for one in told} == {reply.headers["x-request-id"]}
    assert "ZeroDivisionError" in told[0]["exception"]


def test_text_logs_and_levels(client, logged):
    lines = logged("text")
    client.get("/v1/models")
    (line,) = lines()
    assert "GET /v1/models 200" in line
    lines = logged("text", "error")
    client.get("/v1/models")
    assert lines() == []
