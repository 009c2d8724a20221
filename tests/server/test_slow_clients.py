"""Clients that are slow, broken or hostile: none holds what others need, and none lasts for ever."""

import socket
import threading
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from serving import PATIENCE, Inverting, background, picture, serving
from test_api import refused, restored
from test_load import until

import kbnet.server.running
from kbnet.errors import InvalidInputError
from kbnet.imaging import Photo, write_photo
from kbnet.server import Limits

QUICK = {"header_seconds": 1, "body_seconds": 1, "body_rate": 100}


@contextmanager
def raw(client):
    """A connection without manners."""
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.settimeout(PATIENCE)
        yield connection


def head(length, kind="image/png", path="/v1/restore"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


@contextmanager
def dripping(connection, piece=b"x", every=0.1):
    """Send a little again and again, until the server has enough."""
    stop = threading.Event()

    def drip():
        while not stop.wait(every):
            try:
                connection.sendall(piece)
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def ends(connection):
    """Read until the server closes it; what it said."""
    said = b""
    try:
        while piece := connection.recv(65536):
            said += piece
    except ConnectionError:
        pass
    return said


def json_reply(connection):
    """Read a reply of JSON to its end; its head and its body may come apart."""
    said = b""
    while not said.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, said
        said += piece
    return said


@pytest.fixture(scope="module")
def quick():
    with serving(Inverting().provide, Limits(**QUICK)) as client:
        yield client


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_a_head_that_does_not_end_is_not_waited_for(quick, begun):
    with raw(quick) as connection:
        connection.sendall(begun)
        assert ends(connection) == b""


def test_a_head_that_drips_is_not_waited_for(quick):
    with raw(quick) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nX-A: ")
        with dripping(connection):
            assert ends(connection) == b""


def test_the_head_of_a_second_request_has_its_own_time(quick):
    with raw(quick) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert json_reply(connection).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /heal")
        assert ends(connection) == b""


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 5000])
def test_a_body_that_comes_too_slowly_is_refused(quick, first):
    with raw(quick) as connection:
        connection.sendall(head(10_000) + bytes(first))
        with dripping(connection):
            said = ends(connection)
        assert said.startswith(b"HTTP/1.1 408")
        assert b"expected 0.1 kB per second over 1 seconds" in said


def test_slow_bodies_hold_no_places():
    with serving(Inverting().provide, Limits(waiting=1)) as client, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(raw(client)).sendall(head(10_000) + b"x")
        until(lambda: "kbnet_arriving 8.0" in client.get("/metrics").text)
        restored(client.post("/v1/restore", content=picture()[1]))


def test_where_bodies_are_too_large_together_the_slowest_gives_way():
    data = picture(60, 60)[1]  # 10.8 kB
    with serving(Inverting().provide, Limits(bytes=len(data))) as client, ExitStack() as stack:
        slow = [stack.enter_context(raw(client)) for _ in range(4)]
        for number, connection in enumerate(slow, 1):
            connection.sendall(head(len(data)) + data[:-10])
            until(lambda number=number: f"kbnet_arriving {number}.0" in client.get("/metrics").text)
        until(lambda: f"kbnet_body_bytes {4 * (len(data) - 10)}.0" in client.get("/metrics").text)
        restored(client.post("/v1/restore", content=data))
        said = slow[0].recv(65536)
        assert said.startswith(b"HTTP/1.1 429")
        slow[3].sendall(data[-10:])  # those who stayed are served
        assert slow[3].recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "path", "status"), [("text/html", "/v1/restore", b"415"), ("image/png", "/x", b"404")]
)
def test_the_rest_of_a_refused_body_is_not_read_for_ever(quick, kind, path, status):
    with raw(quick) as connection:
        connection.sendall(head(1_000_000, kind, path) + b"x")
        with dripping(connection):
            said = ends(connection)
        assert said.startswith(b"HTTP/1.1 " + status)


def test_a_form_of_many_parts_is_refused_at_the_first_few(quick):
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    with raw(quick) as connection:
        connection.sendall(head(1_000_000_000, "multipart/form-data; boundary=b") + 20 * part)  # and no end of it
        said = json_reply(connection)
        assert b"expected at most 200000000 bytes" in said
    with raw(quick) as connection:
        connection.sendall(head(100_000_000, "multipart/form-data; boundary=b") + 20 * part)
        said = json_reply(connection)
        assert b"only the field 'image', got 'a', 'a', 'a'" in said


@pytest.mark.slow
def test_a_reply_that_nobody_takes_is_given_up(quick):
    data = picture(1200, 1200)[1]
    with raw(quick) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head(len(data)) + data)
        until(lambda: "kbnet_admitted 1.0" in quick.get("/metrics").text)
        until(lambda: "kbnet_admitted 0.0" in quick.get("/metrics").text)
        until(lambda: len(quick.server.server_state.connections) == 1)  # of the honest client


def test_many_connections_give_way_to_new_ones(monkeypatch):
    monkeypatch.setattr(kbnet.server.running, "_most_connections", lambda: 8)
    with serving(Inverting().provide) as client, ExitStack() as stack:
        idle = [stack.enter_context(raw(client)) for _ in range(30)]
        for connection in idle:
            connection.sendall(b"GET / HT")
        restored(client.post("/v1/restore", content=picture()[1]))
        assert len(client.server.server_state.connections) <= 8


def test_one_who_leaves_a_group_does_not_fail_the_others():
    held = Inverting(shut=True)
    with serving(held.provide) as client, ExitStack() as stack:
        pictures = [picture(seed=seed) for seed in range(4)]
        replies = [stack.enter_context(background(client.post, "/v1/restore", content=pictures[0][1]))]
        until(held.begun.is_set)
        opened, release = threading.Event(), threading.Event()
        worker = client.app.state.desk.worker
        answer = worker._answer

        def pausing(several, start):
            if len(several) > 1:  # the group is decoded, and one of its senders leaves before the network begins
                opened.set()
                assert release.wait(PATIENCE)
            answer(several, start)

        worker._answer = pausing
        with raw(client) as leaving:
            leaving.sendall(head(len(pictures[3][1])) + pictures[3][1])
            until(lambda: "kbnet_waiting 1.0" in client.get("/metrics").text)
            for number, (_, data) in enumerate(pictures[1:3], 2):
                replies.append(stack.enter_context(background(client.post, "/v1/restore", content=data)))
                until(lambda number=number: f"kbnet_waiting {number}.0" in client.get("/metrics").text)
            held.gate.set()
            assert opened.wait(PATIENCE)
        until(lambda: "kbnet_admitted 2.0" in client.get("/metrics").text)
        release.set()
        until(lambda: all(replies))
    assert held.groups == [2]
    for (pixels, _), (reply,) in zip(pictures, replies, strict=False):
        assert np.array_equal(restored(reply).pixels, 255 - pixels)


class Choosy(Inverting):
    """Fails for a group in which one picture is black, and for that one alone."""

    def __call__(self, image, /, **options):
        if image.shape[:2] != (8, 8) and image.max() == 0:
            raise InvalidInputError("expected no black picture")
        return super().__call__(image, **options)


def test_one_picture_that_fails_its_group_does_not_fail_the_others():
    held = Choosy(shut=True)
    black = write_photo(Photo(np.zeros((24, 32, 3), np.uint8)), None)
    bodies = [picture(seed=0)[1], picture(seed=1)[1], black, picture(seed=2)[1]]
    with serving(held.provide) as client, ExitStack() as stack:
        replies = []
        for number, data in enumerate(bodies):
            replies.append(stack.enter_context(background(client.post, "/v1/restore", content=data)))
            until(held.begun.is_set)
            until(lambda number=number: f"kbnet_waiting {number}.0" in client.get("/metrics").text)
        held.gate.set()
    assert held.groups == [3]
    assert "expected no black picture" in refused(replies[2][0], 400)
    for seed, (reply,) in zip(range(3), (replies[0], replies[1], replies[3]), strict=True):
        assert np.array_equal(restored(reply).pixels, 255 - picture(seed=seed)[0])


def test_the_end_sends_away_who_cannot_be_served_in_its_time():
    held = Inverting(shut=True)
    with serving(held.provide, Limits(shutdown_seconds=1)) as client:
        with ExitStack() as clients:
            at_work = clients.enter_context(background(client.post, "/v1/restore", content=picture(seed=1)[1]))
            until(held.begun.is_set)  # else both pictures might go through the network together
            waiting = clients.enter_context(background(client.post, "/v1/restore", content=picture(seed=2)[1]))
            arriving, silent = clients.enter_context(raw(client)), clients.enter_context(raw(client))
            until(lambda: "kbnet_waiting 1.0" in client.get("/metrics").text)
            arriving.sendall(head(1000) + b"x")
            until(lambda: "kbnet_arriving 1.0" in client.get("/metrics").text)
            client.server.should_exit = True
            said = ends(arriving)  # at once: nothing of it was accepted
            assert said.startswith(b"HTTP/1.1 503")
            assert b"shutting down" in said
            assert ends(silent) == b""
        for reply in (at_work, waiting):
            assert "the server is shutting down" in refused(reply[0], 503)
            assert reply[0].headers["retry-after"] == "10"
        held.gate.set()
