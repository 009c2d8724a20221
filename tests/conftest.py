"""What every test stands on: poisoned memory, and the authors' numbers."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import kbnet

# Tests work on tiny tensors. A second thread gains nothing there, and on a busy machine the two wait for each other.
torch.set_num_threads(1)
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; tables in pipes are as wide as their rows
os.environ["KBNET_POISON_MEMORY"] = "1"  # the same for the memory of the compiled kernels

OFFICIAL = Path(__file__).parent / "fixtures" / "official"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-docs", action="store_true", help="write what documentation pages show anew")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Make torch fill uninitialised memory with NaN, so that an output which is not written everywhere shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def file_size_limit() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """`with file_size_limit(1000):` a disk that is full after so many bytes of a file."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limit


@pytest.fixture(scope="session")
def official() -> Path:
    """Folder of the authors' implementation's outputs; see tests/fixtures/README.md."""
    return OFFICIAL


@pytest.fixture(scope="session")
def official_index() -> dict:
    return json.loads((OFFICIAL / "index.json").read_text())


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Run `run_python(code, *arguments)` in a process of its own, which must succeed in silence; its output."""
    package = str(Path(kbnet.__file__).parents[1])
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
    }

    def run(code: str, *arguments: str) -> str:
        child = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
        )
        assert (child.returncode, child.stderr) == (0, ""), child.stdout
        return child.stdout

    return run
