"""The page that restores in the browser, built, and a plain file server for it."""

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "server"))  # the driver of its page drives this one too


@pytest.fixture(scope="session")
def tool():
    """tools/web.py as a module."""
    spec = importlib.util.spec_from_file_location("web_tool", ROOT / "tools" / "web.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def site(tool, tmp_path_factory):
    """The folder that `make web` builds."""
    zig = tool.compiler()
    if zig is None:
        pytest.skip("there is no compiler for WebAssembly on this machine: pip install ziglang")
    folder = tmp_path_factory.mktemp("web") / "site"
    tool.build(zig, folder)
    return folder


@pytest.fixture(scope="session")
def node():
    """Node 20 or newer."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("there is no Node on this machine: install the system's package nodejs")
    version = subprocess.check_output([found, "--version"], text=True).strip()
    if int(version[1:].split(".")[0]) < 20:
        pytest.skip(f"Node 20 or newer is needed, and this machine has {version}")
    return found


@pytest.fixture
def run(node):
    """What a module of JavaScript says last, as JSON; `given` is what it is given."""

    def run(script, **given):
        head = 'const given = JSON.parse((await import("node:fs")).readFileSync(0, "utf8"));\n'
        head += "const say = (value) => console.log(JSON.stringify(value));\n"
        command = [node, "--input-type=module", "-e", head + script]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout.splitlines()[-1])

    return run


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        pass


class Host:
    """A static host on a free port of the loopback."""

    def __init__(self, folder):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stop(self):
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()


@pytest.fixture
def host(site):
    """The page's host; `stop()` cuts the network."""
    host = Host(site)
    yield host
    host.stop()
