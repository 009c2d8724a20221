"""The command run in this process, a network small enough for every test, and children for signals and permissions."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from cli_files import SOURCE

from kbnet.cli import main
from kbnet.models import create_model, save_file


@dataclass
class Done:
    code: int
    out: bytes
    err: str


@pytest.fixture(autouse=True)
def one_thread():
    """Such small pictures gain nothing from threads, which on a busy machine wait long for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A weights file of a network with ten thousand parameters."""
    torch.manual_seed(0)
    network = create_model("kbnet-nano", width=8, encoder_blocks=(1,), decoder_blocks=(1,), middle_blocks=1, bases=4)
    with torch.no_grad():
        for parameter in network.last.parameters():
            parameter.mul_(0.1)  # random weights change a picture as much as damaged ones, which a note would say
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network, path)
    return path


@pytest.fixture
def kbnet_(monkeypatch):
    """Run the command in this process: kbnet_("restore", path, ..., stdin=b"") -> Done."""

    def run(*arguments, stdin=b""):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main([str(argument) for argument in arguments])
        return Done(code, out.buffer.getvalue(), err.buffer.getvalue().decode())

    return run


@pytest.fixture
def restore(kbnet_, tiny):
    """`kbnet restore` with the tiny network."""
    return lambda *arguments, **options: kbnet_("restore", "--model", tiny, *arguments, **options)


@pytest.fixture
def spawn():
    """Start a Python child with the package importable: spawn(arguments, **of Popen) -> Popen; killed if left over."""
    children = []

    def start(arguments, **options):
        environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        child = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, preexec_fn=_default_signals, **options
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def _default_signals():
    # a test run started in the background ignores Ctrl-C, and its children would too
    signal.signal(signal.SIGINT, signal.SIG_DFL)
