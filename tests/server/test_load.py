"""Queue, limits of time, senders who leave, and the end of the server."""

import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
from serving import PATIENCE, Inverting, background, picture, serving
from test_api import refused, restored

from kbnet.server import Limits
from kbnet.server.restoration import Pending, Restoration


def until(condition):
    """Wait for what another thread does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def progress(client, token):
    return client.get(f"/v1/progress/{token}").json()


def test_more_than_may_wait_are_asked_to_come_back_and_none_is_lost():
    held = Inverting(shut=True)
    with serving(held.provide, Limits(waiting=2)) as client:
        pictures = [picture(seed=seed) for seed in range(3)]

        def post(seed):
            return client.post("/v1/restore", content=pictures[seed][1], params={"progress": f"token-{seed:03}"})

        with background(post, 0) as first:
            until(held.begun.is_set)
            with background(post, 1) as second:
                until(lambda: progress(client, "token-001").get("state") == "waiting")
                with background(post, 2) as third:
                    until(lambda: progress(client, "token-002").get("state") == "waiting")
                    reply = client.post("/v1/restore", content=picture()[1])
                    assert "too many images are waiting" in refused(reply, 429)
                    assert 1 <= int(reply.headers["retry-after"]) <= 60
                    first_move, last_move = progress(client, "token-000"), progress(client, "token-002")
                    assert first_move.pop("seconds") > 0
                    assert first_move == {"state": "restoring", "ahead": 0, "done": 0, "total": 4, "left": None}
                    assert last_move.pop("seconds") == 0
                    assert last_move == {"state": "waiting", "ahead": 2, "done": 0, "total": 0, "left": None}
                    same = client.post("/v1/restore", content=picture()[1], params={"progress": "token-001"})
                    assert "choose another token" in refused(same, 400)
                    assert "kbnet_waiting 2.0\nkbnet" in client.get("/metrics").text.replace("# ", "kbnet")
                    held.gate.set()
        for (pixels, _), (reply,) in zip(pictures, (first, second, third), strict=True):
            assert np.array_equal(restored(reply).pixels, 255 - pixels)
        restored(client.post("/v1/restore", content=picture()[1]))
        assert progress(client, "token-001") == {
            "error": "no request with this token is in progress; it may have finished"
        }


def test_small_pictures_of_one_size_that_wait_are_restored_together():
    held = Inverting(shut=True)
    sizes = [(24, 32)] * 3 + [(24, 33), (24, 32)]
    with serving(held.provide, Limits(waiting=8)) as client, ExitStack() as stack:
        pictures = [picture(*size, seed=seed) for seed, size in enumerate(sizes)]
        damaged = pictures[0][1][:-40]
        bodies = [data for _, data in pictures] + [damaged]
        replies = [stack.enter_context(background(client.post, "/v1/restore", content=bodies[0]))]
        until(held.begun.is_set)
        for index, data in enumerate(bodies[1:], 1):
            replies.append(stack.enter_context(background(client.post, "/v1/restore", content=data)))
            until(lambda index=index: f"kbnet_waiting {index}.0" in client.get("/metrics").text)
        held.gate.set()
        until(lambda: all(replies))
        assert held.groups == [3]  # not the first, which was at work; not the one of another size, not the damaged one
        for (pixels, _), (reply,) in zip(pictures, replies[:-1], strict=True):
            assert np.array_equal(restored(reply).pixels, 255 - pixels)
        assert "truncated or damaged" in refused(replies[-1][0], 400)


def test_a_sender_who_leaves_frees_the_place():
    held = Inverting(shut=True)
    with serving(held.provide, Limits(waiting=1)) as client:
        host, port = client.base_url.host, client.base_url.port
        data = picture()[1]
        head = f"POST /v1/restore HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        with background(client.post, "/v1/restore", content=data) as first:
            until(held.begun.is_set)
            with socket.create_connection((host, port)) as leaving:
                leaving.sendall(head + data)
                until(lambda: "kbnet_waiting 1.0" in client.get("/metrics").text)
                refused(client.post("/v1/restore", content=data), 429)
            until(lambda: "kbnet_waiting 0.0" in client.get("/metrics").text)
            until(lambda: "kbnet_admitted 1.0" in client.get("/metrics").text)
            held.gate.set()
        restored(first[0])
        assert len(held.strengths) == 1  # the one that nobody waited for was not begun


def test_a_sender_who_leaves_ends_the_work_at_the_next_tile():
    held = Inverting(shut=True)
    with serving(held.provide) as client:
        data = picture()[1]
        head = f"POST /v1/restore HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as leaving:
            leaving.sendall(head + data)
            until(held.begun.is_set)
        until(lambda: "kbnet_admitted 0.0" in client.get("/metrics").text)
        held.gate.set()
        restored(client.post("/v1/restore", content=data))
        assert client.get("/metrics").text.count('task="denoise"} 768.0') == 1  # of one picture alone


@pytest.mark.slow
def test_time_runs_out_for_the_slow_and_the_stuck():
    held = Inverting(shut=True)
    with serving(held.provide, Limits(seconds=1)) as client:
        data = picture()[1]
        with background(client.post, "/v1/restore", content=data) as stuck:
            until(held.begun.is_set)
        assert "time limit was exceeded" in refused(stuck[0], 503)
        held.gate.set()

        def slow():
            yield data[:10]
            time.sleep(2)
            yield data[10:]

        refused(client.post("/v1/restore", content=slow()), 503)
        until(lambda: "kbnet_admitted 0.0" in client.get("/metrics").text)
        restored(client.post("/v1/restore", content=data))


def test_all_bodies_together_are_bounded():
    held = Inverting(shut=True)
    data = picture(60, 60)[1]  # incompressible: 10.8 kB
    with serving(held.provide, Limits(bytes=len(data), waiting=16)) as client:
        with background(client.post, "/v1/restore", content=data):
            until(held.begun.is_set)
            with (
                background(client.post, "/v1/restore", content=data),
                background(client.post, "/v1/restore", content=data),
                background(client.post, "/v1/restore", content=data),
            ):
                until(lambda: "kbnet_waiting 3.0" in client.get("/metrics").text)
                refused(client.post("/v1/restore", content=data), 429)
                held.gate.set()
        restored(client.post("/v1/restore", content=data))


def test_the_end_finishes_what_was_accepted():
    held = Inverting(shut=True)
    with serving(held.provide) as client:
        first, second = picture(seed=1), picture(seed=2)
        with background(client.post, "/v1/restore", content=first[1]) as one:
            until(held.begun.is_set)
            with background(client.post, "/v1/restore", content=second[1]) as two:
                until(lambda: "kbnet_waiting 1.0" in client.get("/metrics").text)
                client.server.should_exit = True
                time.sleep(0.3)  # it has noticed by then
                held.gate.set()
    assert np.array_equal(restored(one[0]).pixels, 255 - first[0])
    assert np.array_equal(restored(two[0]).pixels, 255 - second[0])


def test_how_long_a_picture_takes_is_known_from_the_start():
    with serving(None) as client:
        worker = client.app.state.desk.worker
        until(lambda: worker._pace)
        restored(client.post("/v1/restore", content=picture()[1], params={"task": "derain"}))
        pending = Pending(Restoration(b"", "derain"), time.monotonic())
        pending.began, pending.pixels = time.monotonic(), 10**9
        _, left = worker.left(pending)
        assert left > 0  # by the pace of another task
