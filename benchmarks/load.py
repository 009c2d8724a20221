"""Load test with many clients: lost, mixed up or late replies, memory growth, and rejected requests.

    python benchmarks/load.py

Starts `kbnet serve` in a separate process, on the loopback address, and sends requests from this process for a limited
time. Each client has its own images, and every reply is compared with the Restorer's result in this process. Finally,
the server is stopped during requests; it must still answer those that it has accepted.

Writes benchmarks/results/load.json. Exits with 1 if a reply was wrong or lost, or if memory grew.
"""

import argparse
import http.client
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import facts
import kbnet
from kbnet.imaging import Photo, read_photo, write_photo

SIDES = (48, 64, 80, 96)
TOLERANCE = 1  # of 255: sums in a different order
WAITING = 8  # places in the queue, few enough that twenty clients fill it
GROWTH = 1.10  # of the least resident memory, from the first to the last quarter; peaks are those of requests
PATIENCE = 120.0  # seconds for one reply


@dataclass
class Client:
    """One client's images, and the outcomes of its requests."""

    pictures: list[tuple[bytes, np.ndarray]]
    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    refused: int = 0  # connections after the server has stopped
    wrong: list[str] = field(default_factory=list)

    def run(self, port: int, stop: threading.Event, ended: threading.Event) -> None:
        """Send requests until stopped."""
        turn = 0
        while not stop.is_set():
            data, expected = self.pictures[turn % len(self.pictures)]
            turn += 1
            start = time.perf_counter()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                try:
                    connection.request("POST", "/v1/restore", data, {"Content-Type": "image/png"})
                    reply = connection.getresponse()
                    body = reply.read()
                finally:
                    connection.close()
            except OSError as error:
                if ended.is_set():
                    self.refused += 1
                    return
                self.wrong.append(f"lost: {error!r}")
                continue
            if reply.status == 429:
                self.busy += 1
                # sooner than Retry-After, to keep up the load; the total time is limited
                stop.wait(min(float(reply.headers["Retry-After"]), 0.2))
            elif reply.status == 503 and ended.is_set():
                self.refused += 1
                return
            elif reply.status != 200:
                self.wrong.append(f"{reply.status}: {body[:200].decode(errors='replace')}")
            else:
                self.seconds.append(time.perf_counter() - start)
                self._check(body, expected)

    def _check(self, body: bytes, expected: np.ndarray) -> None:
        pixels = read_photo(body).pixels
        if pixels.shape != expected.shape:
            self.wrong.append(f"wrong size: {pixels.shape}, expected {expected.shape}")
            return
        difference = int(np.abs(pixels.astype(int) - expected).max())
        if difference > TOLERANCE:
            self.wrong.append(f"wrong result: differs by {difference}")


def make_clients(count: int) -> list[Client]:
    """Clients with two unique images each."""
    restorer = kbnet.Restorer.from_pretrained("denoise", device="cpu")
    clients = []
    for number in range(count):
        pictures = []
        for turn in range(2):
            rng = np.random.default_rng(2 * number + turn)
            side = SIDES[int(rng.integers(len(SIDES)))]
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            data = write_photo(Photo(pixels), None)
            assert data is not None
            pictures.append((data, restorer(pixels).astype(int)))
        clients.append(Client(pictures))
    return clients


def resident(process: int) -> float:
    """Resident memory in megabytes, without what the system can take back: the engine's, between calls."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    size = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
    return (size["Rss"] - size["LazyFree"]) / 1024


def run(count: int, seconds: float) -> dict[str, Any]:
    """Load a server and return the results."""
    clients = make_clients(count)
    command = [sys.executable, "-m", "kbnet", "serve", "--port", "0", "--no-page", "--max-waiting", str(WAITING)]
    stop, ended = threading.Event(), threading.Event()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        port = int(server.stderr.readline().split()[3].rstrip(";/").rpartition(":")[2])
        log: list[str] = []
        threading.Thread(target=lambda lines=server.stderr: log.extend(lines), daemon=True).start()
        # The first reply waits until the network is loaded.
        first = Client(clients[0].pictures[:1])
        once = threading.Event()
        warm = threading.Thread(target=first.run, args=(port, once, ended))
        warm.start()
        while not (first.seconds or first.wrong):
            time.sleep(0.05)
        once.set()
        warm.join()
        threads = [threading.Thread(target=client.run, args=(port, stop, ended)) for client in clients]
        for thread in threads:
            thread.start()
        memory = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            memory.append(resident(server.pid))
            time.sleep(min(0.25, seconds / 40))
        ended.set()
        server.send_signal(signal.SIGTERM)  # during requests
        for thread in threads:
            thread.join(PATIENCE)
        stop.set()
        server.wait(PATIENCE)
        alive = sum(thread.is_alive() for thread in threads)
    quarter = max(len(memory) // 4, 1)
    before, after = min(memory[:quarter]), min(memory[-quarter:])
    times = sorted(second for client in clients for second in client.seconds)
    wrong = [line for client in clients for line in client.wrong]
    return {
        "clients": count,
        "seconds": seconds,
        "sides": list(SIDES),
        "places in the queue": WAITING + 1,
        "replies": len(times),
        "replies per second": round(len(times) / seconds, 1),
        "rejected with 429": sum(client.busy for client in clients),
        "rejected at shutdown": sum(client.refused for client in clients),
        "wrong or lost": wrong[:20],
        "wrong or lost in total": len(wrong),
        "unanswered": alive,
        "median seconds": round(statistics.median(times), 3) if times else None,
        "99th percentile seconds": round(times[int(0.99 * (len(times) - 1))], 3) if times else None,
        "clients that got replies": sum(bool(client.seconds) for client in clients),
        "least resident megabytes, first quarter": round(before, 1),
        "least resident megabytes, last quarter": round(after, 1),
        "memory is flat": after <= GROWTH * before,
        "tracebacks in the log": sum("Traceback" in line for line in log),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="at most 120")
    parser.add_argument("--results", type=Path, default=facts.RESULTS)
    options = parser.parse_args()
    if not (1 <= options.clients <= 100 and 1 <= options.seconds <= 120):
        parser.error("expected 1 to 100 clients and 1 to 120 seconds")
    results = run(options.clients, options.seconds)
    print(json.dumps(results, indent=1))
    print(facts.write("load", results, options.results))
    broken = results["wrong or lost in total"] or results["unanswered"] or results["tracebacks in the log"]
    return 1 if broken or not results["memory is flat"] or not results["replies"] else 0


if __name__ == "__main__":
    sys.exit(main())
