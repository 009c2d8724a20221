"""The system's Firefox through WebDriver BiDi: the few commands that the tests need, over a WebSocket of their own."""

import base64
import json
import os
import re
import socket
import struct
import subprocess
import time
from pathlib import Path

PATIENCE = 240.0  # seconds; a first start on a busy machine is slow
PREFERENCES = {
    "browser.download.folderList": 2,
    "browser.download.alwaysOpenPanel": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "app.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}


class Socket:
    """A WebSocket client: text messages of any length, both ways."""

    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self.socket.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        self.stream = self.socket.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline() != b"\r\n":
            pass

    def send(self, text):
        data, mask = text.encode(), os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        if len(data) >= 65536:
            size = b"\xff" + struct.pack(">Q", len(data))
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self.socket.sendall(b"\x81" + size + mask + masked)

    def receive(self):
        text = b""
        while True:
            first, size = self.stream.read(2)
            if size > 125:
                size = int.from_bytes(self.stream.read(2 if size == 126 else 8), "big")
            data = self.stream.read(size)
            if first & 15 in (0, 1):
                text += data
            if first & 0x80 and first & 15 in (0, 1):
                return text.decode()

    def close(self):
        self.stream.close()
        self.socket.close()


class Firefox:
    """One window; `asked` are the addresses of all requests, `said` what was logged."""

    def __init__(self, executable, folder):
        profile, self.downloads = folder / "profile", folder / "downloads"
        profile.mkdir()
        self.downloads.mkdir()
        wanted = PREFERENCES | {"browser.download.dir": str(self.downloads)}
        lines = (f"user_pref({json.dumps(key)}, {json.dumps(value)});\n" for key, value in wanted.items())
        (profile / "user.js").write_text("".join(lines), encoding="utf-8")
        command = [executable, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"]
        log = folder / "log"
        home = os.environ | {"HOME": str(folder)}
        with log.open("wb") as target:
            self.process = subprocess.Popen(command, stdout=target, stderr=target, env=home)
        self.asked, self.said, self.number = [], [], 0
        listening = re.compile(r"listening on ws://127\.0\.0\.1:(\d+)")
        port = self.until(lambda: listening.search(log.read_text(errors="replace")))[1]
        self.socket = Socket(int(port), "/session")
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=["network.beforeRequestSent", "log.entryAdded"])
        self.window = self.command("browsingContext.getTree")["contexts"][0]["context"]

    def command(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            told = json.loads(self.socket.receive())
            if told.get("method") == "network.beforeRequestSent":
                self.asked.append(told["params"]["request"]["url"])
            elif told.get("method") == "log.entryAdded":
                self.said.append(told["params"].get("text") or "")
            elif told.get("id") == self.number:
                assert told["type"] == "success", told
                return told["result"]

    def open(self, address):
        self.command("browsingContext.navigate", context=self.window, url=address, wait="complete")

    def reload(self):
        self.command("browsingContext.reload", context=self.window, wait="complete")

    def run(self, expression):
        """The value of JavaScript, or of what its promise becomes."""
        text = f"Promise.resolve({expression}).then((value) => JSON.stringify(value ?? null))"
        told = self.command("script.evaluate", expression=text, target={"context": self.window}, awaitPromise=True)
        assert told["type"] == "success", told
        return json.loads(told["result"]["value"])

    def choose(self, selector, path):
        """Choose a file."""
        locator = {"type": "css", "value": selector}
        (node,) = self.command("browsingContext.locateNodes", context=self.window, locator=locator)["nodes"]
        element = {"sharedId": node["sharedId"]}
        self.command("input.setFiles", context=self.window, element=element, files=[str(path)])

    def until(self, condition):
        """Wait until a function, or a JavaScript expression, is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.run(condition) if isinstance(condition, str) else condition()):
            assert time.monotonic() < end, condition
            assert self.process.poll() is None, "Firefox has ended"
            time.sleep(0.1)
        return found

    def download(self, selector):
        """Click; name and bytes of the file that arrives."""
        before = set(self.downloads.iterdir())
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

        def arrived():
            new = set(self.downloads.iterdir()) - before
            done = [path for path in new if path.suffix != ".part" and path.stat().st_size]
            return done if done and len(new) == 1 else None

        (path,) = self.until(arrived)
        return path.name, Path(path).read_bytes()

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)
