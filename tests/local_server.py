"""Servers of this machine alone, in place of a mirror and of the hub's HTTP interface."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Files of a dict by path, with ranges; and what huggingface_hub asks for to make a commit."""

    files: dict[str, bytes]
    requests: list[tuple[str, str, str]]  # method, path, range
    cut: int = 0  # bytes after which the next body ends
    ranges = True

    def _respond(self, code: int, body: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: type(self).cut] if type(self).cut else body)
            if type(self).cut:
                type(self).cut = 0
                self.close_connection = True

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.requests.append((self.command, self.path, wanted))
        parts = self.path.partition("?")[0].strip("/").split("/")
        # user/repo/resolve/revision/file
        name = "/".join([*parts[:2], *parts[4:]]) if parts[2:3] == ["resolve"] else "/".join(parts)
        if name not in self.files:
            code = (
                "EntryNotFound"
                if any(key.startswith("/".join(parts[:2]) + "/") for key in self.files)
                else "RepoNotFound"
            )
            self._respond(404, b"", X_Error_Code=code)
            return
        body = self.files[name]
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                self._respond(416, b"", Content_Range=f"bytes */{len(body)}")
            else:
                place = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self._respond(206, body[start:], Content_Range=place, ETag=etag, X_Repo_Commit=COMMIT)
            return
        self._respond(200, body, ETag=etag, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(("POST", self.path, ""))
        host = f"http://{self.headers['Host']}"
        if self.headers.get("Authorization") != "Bearer hf_token":
            self._respond(401, b"{}", Content_Type="application/json")
            return
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            answer = {"url": f"{host}/{asked.get('organization') or 'user'}/{asked['name']}"}
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            answer = {"files": files}
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    self.files[f"{repo}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
            answer = {
                "success": True,
                "commitUrl": f"{host}/{repo}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "hookOutput": "",
            }
        else:
            answer = {"type": "user", "name": "user"}
        self._respond(200, json.dumps(answer).encode(), Content_Type="application/json")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[tuple[str, type[Handler]]]:
    """Address of a server of these files, and its handler, whose attributes tell and change what it does."""
    handler = type("ThisHandler", (Handler,), {"files": files, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
