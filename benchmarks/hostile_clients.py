"""Hostile clients and a well-behaved one: does the latter wait only for the queue, and does the server stop in time?

    python benchmarks/hostile_clients.py                             # 100 of them for 60 seconds
    python benchmarks/hostile_clients.py --clients 22 --seconds 2    # as in the tests

Starts `kbnet serve` in a separate process, on the loopback address. Hostile clients send heads and bodies that never
end, bodies of unsupported types, forms with a million parts, damaged images and decompression bombs; they don't speak
HTTP, disconnect before the reply, or never read it. The honest client sends one photo after another, and every reply is
compared with the Restorer's result in this process. Finally, the server gets SIGTERM while all clients are connected.

The time of an honest request consists of the work for the images before it, its own work, and the server's overhead.
The overhead is the time of the request minus the work that the server's metrics count in that time.

Writes benchmarks/results/hostile_clients.json. Exits with 1 if a reply was wrong, lost or refused, if the overhead was
more than MOST_ADDED seconds, or if the server didn't stop within MOST_END seconds.
"""

import argparse
import collections
import http.client
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import facts
import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "hostile"))
import corpus

SIDE = 256  # size of the honest client's photo
TOLERANCE = 1  # of 255: sums in a different order
MOST_ADDED = 2.0  # seconds
MOST_END = 10.0  # seconds
PATIENCE = 120.0  # seconds

Attack = Callable[[socket.socket, threading.Event, random.Random], None]


def head(length: int, kind: str = "image/png", extra: str = "") -> bytes:
    """The head of a restore request."""
    lines = f"POST /v1/restore HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n"
    return f"{lines}{extra}\r\n".encode()


def drip(connection: socket.socket, stop: threading.Event, piece: bytes = b"x", every: float = 0.5) -> None:
    """Send a byte from time to time, until the server disconnects."""
    while not stop.wait(every):
        connection.sendall(piece)


def slow_head(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    drip(connection, stop)


def silent(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.recv(1)


def slow_body(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(head(100_000_000))
    drip(connection, stop)


def stalled_body(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(head(100_000_000) + bytes(5_000_000))
    drip(connection, stop)


def refused_body(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(head(1_000_000, "text/html") + b"<html>")
    drip(connection, stop, every=0.1)


def many_parts(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1000
    connection.sendall(head(1000 * len(part), "multipart/form-data; boundary=b"))
    for _ in range(1000):
        connection.sendall(part)
    connection.recv(65536)


def damaged(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    for _, content in corpus.pictures(1, rng.randrange(10**6)):
        connection.sendall(head(len(content), extra="Connection: close\r\n") + content)
        while connection.recv(65536):
            pass
    stop.wait(0.2)


def nonsense(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(b"\x16\x03\x01" + rng.randbytes(200) + b"\r\n\r\n")
    connection.recv(65536)
    stop.wait(0.2)


def foreign(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    connection.sendall(head(1_000_000, extra="Origin: http://other.example\r\n") + bytes(1000))
    drip(connection, stop)


def small(rng: random.Random) -> bytes:
    """A small encoded image."""
    pixels = np.frombuffer(rng.randbytes(64 * 64 * 3), np.uint8).reshape(64, 64, 3)
    data = write_photo(Photo(pixels), None)
    assert data is not None
    return data


def leaving(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    data = small(rng)
    connection.sendall(head(len(data)) + data)
    stop.wait(rng.uniform(0, 0.5))


def never_reading(connection: socket.socket, stop: threading.Event, rng: random.Random) -> None:
    data = small(rng)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.sendall(head(len(data)) + data)
    stop.wait(PATIENCE)


ATTACKS: dict[Attack, int] = {
    slow_head: 20,
    silent: 10,
    slow_body: 20,
    stalled_body: 10,
    refused_body: 10,
    many_parts: 4,
    damaged: 8,
    nonsense: 4,
    foreign: 4,
    leaving: 6,
    never_reading: 4,
}
"""Their behaviours, and how many of a hundred clients have each."""


class Hostile(threading.Thread):
    """One client that repeats the same behaviour."""

    def __init__(self, attack: Attack, port: int, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self.attack, self.port, self.stop, self.rng = attack, port, stop, random.Random(seed)
        self.rounds = 0

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
                    self.attack(connection, self.stop, self.rng)
            except OSError:
                self.stop.wait(0.1)  # refused or disconnected: try again
            self.rounds += 1


class Honest:
    """Sends a photo repeatedly and checks the replies."""

    def __init__(self, port: int) -> None:
        self.port = port
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        data = write_photo(Photo(pixels), None)
        assert data is not None
        self.data = data
        self.expected = kbnet.Restorer.from_pretrained("denoise", device="cpu")(pixels).astype(int)
        self.seconds: list[float] = []
        self.added: list[float] = []
        self.statuses: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []

    def get(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"Content-Type": "image/png"} if body else {})
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def work(self) -> float:
        """Seconds of work in the server's metrics."""
        text = self.get("GET", "/metrics")[1].decode()
        found = re.search(r"^kbnet_worker_seconds_total (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def once(self) -> None:
        try:
            before, start = self.work(), time.perf_counter()
            status, body = self.get("POST", "/v1/restore", self.data)
            took = time.perf_counter() - start
            added = took - (self.work() - before)
        except OSError as error:
            self.wrong.append(f"lost: {error!r}")
            return
        self.statuses[str(status)] += 1
        if status != 200:
            self.wrong.append(f"{status}: {body[:200].decode(errors='replace')}")
            return
        self.seconds.append(took)
        self.added.append(added)
        difference = int(np.abs(read_photo(body).pixels.astype(int) - self.expected).max())
        if difference > TOLERANCE:
            self.wrong.append(f"differs by {difference}")


def run(count: int, seconds: float) -> dict[str, Any]:
    """Attack a server and return the honest client's results."""
    command = [sys.executable, "-m", "kbnet", "serve", "--port", "0"]
    stop = threading.Event()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        port = int(server.stderr.readline().split()[3].rstrip(";/").rpartition(":")[2])
        log: list[str] = []
        threading.Thread(target=lambda lines=server.stderr: log.extend(lines), daemon=True).start()
        honest = Honest(port)
        for _ in range(4):
            honest.once()
        alone, honest.seconds, honest.added = (
            honest.seconds[1:],
            [],
            [],
        )  # the first one waited until the network was loaded
        kinds = [attack for attack, share in ATTACKS.items() for _ in range(max(1, round(share * count / 100)))]
        others = [Hostile(attack, port, stop, seed) for seed, attack in enumerate(islice(cycle(kinds), count))]
        for other in others:
            other.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            honest.once()
        rounds = collections.Counter[str]()
        for other in others:
            rounds[other.attack.__name__] += other.rounds
        start = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
        ended = time.perf_counter() - start
        stop.set()
    return {
        "hostile clients": len(others),
        "seconds": seconds,
        "rounds of each kind": dict(rounds),
        "replies to the honest client": dict(honest.statuses),
        "wrong, lost or refused": honest.wrong[:20],
        "alone, median seconds": round(statistics.median(alone), 3),
        "with hostile clients, median seconds": round(statistics.median(honest.seconds), 3) if honest.seconds else None,
        "with hostile clients, longest seconds": round(max(honest.seconds, default=0), 3),
        "overhead, median seconds": round(statistics.median(honest.added), 3),
        "overhead, longest seconds": round(max(honest.added, default=0), 3),
        "seconds from SIGTERM to the end": round(ended, 2),
        "exit code": server.returncode,
        "tracebacks in the log": sum("Traceback" in line for line in log),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="at most 300")
    parser.add_argument("--results", type=Path, default=facts.RESULTS)
    options = parser.parse_args()
    if not (1 <= options.clients <= 500 and 1 <= options.seconds <= 300):
        parser.error("expected 1 to 500 clients and 1 to 300 seconds")
    results = run(options.clients, options.seconds)
    print(json.dumps(results, indent=1))
    print(facts.write("hostile_clients", results, options.results))
    broken = results["wrong, lost or refused"] or results["tracebacks in the log"]
    slow = results["overhead, longest seconds"] > MOST_ADDED
    late = results["seconds from SIGTERM to the end"] > MOST_END
    return 1 if broken or slow or late else 0


if __name__ == "__main__":
    sys.exit(main())
