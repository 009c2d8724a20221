"""Run the commands of deploy/Dockerfile without a container runtime, in temporary folders on this machine.

    python deploy/rehearse.py

Runs every RUN, COPY and ENV of the build stage except system packages, with /opt/kbnet and /source below a temporary
folder. Then runs the last stage's command as its user, its health check, and one image over HTTP. This verifies that
the commands, the ignore file, the user and the health check work together, but not that the base image contains what
they need. Takes two minutes. As root, it switches to the image's user; otherwise it keeps the current one. Port 8000
must be free.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Instruction = tuple[str, str]


def stages(text: str) -> list[list[Instruction]]:
    """The instructions of each stage as (keyword, arguments), without comments and line continuations."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[list[Instruction]] = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def context(target: Path) -> None:
    """Copy the build context. The ignore file excludes everything and then lists what to include."""
    rules = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            (target / name).parent.mkdir(exist_ok=True)
            shutil.copy(source, target / name)


class Rehearsal:
    """The file system and environment for the instructions."""

    def __init__(self, place: Path, python: str) -> None:
        self.place, self.python = place, python
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(place)}
        self.environment |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_"))}
        self.folder, self.user = place, 0
        (place / "opt").mkdir()

    def moved(self, text: str) -> str:
        """A command or path, moved below the temporary folder."""
        text = re.sub(r"(?<![\w.])/(opt/kbnet|source)", rf"{self.place}/\1", text)
        return re.sub(r"^python(?= -m venv)", self.python, text)

    def do(self, word: str, rest: str) -> None:
        """Run one instruction."""
        if word == "ENV":
            for setting in rest.split():
                name, _, value = setting.partition("=")
                self.environment[name] = self.moved(value).replace("$PATH", self.environment["PATH"])
        elif word == "WORKDIR":
            self.folder = Path(self.moved(rest))
            self.folder.mkdir(exist_ok=True)
        elif word == "USER":
            self.user = int(rest)
        elif word == "COPY" and rest == ". .":
            context(self.folder)
        elif word == "COPY" and not rest.startswith("--from"):
            shutil.copy(ROOT / rest.split()[0], self.folder)
        elif word == "RUN" and not rest.startswith(("apt-get", "useradd")):
            print(f"+ {rest}", flush=True)
            subprocess.run(["sh", "-c", self.moved(rest)], cwd=self.folder, env=self.environment, check=True)

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start the container's command as its user."""
        command = [shutil.which(command[0], path=self.environment["PATH"]) or command[0], *command[1:]]
        if os.geteuid() == 0:
            owner = str(self.user)
            command = ["setpriv", "--reuid", owner, "--regid", owner, "--clear-groups", *command]
        return subprocess.Popen(command, cwd="/tmp", env=self.environment)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default="/usr/bin/python3", help="the interpreter to use instead of the base image's"
    )
    given = parser.parse_args()
    build, last = stages((ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    place = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    place.chmod(0o755)
    try:
        rehearsal = Rehearsal(place, given.python)
        for word, rest in build + last:
            rehearsal.do(word, rest)
        known = dict(last)
        server = rehearsal.start(json.loads(known["ENTRYPOINT"]) + json.loads(known["CMD"]))
        try:
            check = json.loads(known["HEALTHCHECK"].partition("CMD ")[2])
            program = [shutil.which(check[0], path=rehearsal.environment["PATH"]), *check[1:]]
            deadline = time.monotonic() + 60
            while subprocess.run(program, env=rehearsal.environment, capture_output=True).returncode != 0:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the server did not become healthy")
                time.sleep(1)
            print("healthy")
            image = (ROOT / "examples" / "noisy.jpg").read_bytes()
            ask = urllib.request.Request("http://127.0.0.1:8000/v1/restore", image, {"Content-Type": "image/jpeg"})
            with urllib.request.urlopen(ask, timeout=120) as reply:
                print(f"restored: status {reply.status}, {len(reply.read()):,} bytes, {reply.headers['Content-Type']}")
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        print(f"SIGTERM: exit code {code}")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
