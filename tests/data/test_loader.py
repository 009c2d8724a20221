"""Batches made ahead are those made when asked for, in the order of the steps."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import kbnet
from kbnet.data import Loader
from kbnet.imaging import Photo, read_photo, write_photo


def numbers(step):
    time.sleep(0.02 if step % 2 else 0.0)  # so that some are ready before those asked for first
    return torch.full((2,), float(step)), torch.randn(3, generator=torch.Generator().manual_seed(step))


def own_number(step):
    return torch.tensor(os.getpid()), torch.zeros(1)


def fail(step):
    raise ValueError(f"no batch {step}")


def encode(step):
    """What degradations do that compress."""
    pixels = np.random.default_rng(step).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return torch.from_numpy(read_photo(write_photo(Photo(pixels), None, format="png")).pixels), torch.from_numpy(pixels)


@pytest.mark.slow
def test_workers_may_encode_and_decode_after_the_parent_has():
    encode(0)  # its threads are not there in a worker
    with Loader(encode, 0, 4, 1) as loader:
        for _ in range(4):
            assert torch.equal(*loader.next())


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_the_order_of_the_steps_whoever_makes_them(workers):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with Loader(numbers, 4, 12, workers) as loader:
        for step in range(4, 12):
            assert all(map(torch.equal, loader.next(), numbers(step)))
        with pytest.raises(StopIteration):
            loader.next()
        assert loader.waited > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_are_processes_of_their_own_that_end_with_the_loader():
    with Loader(own_number, 0, 100, 2) as loader:
        found = {int(loader.next()[0]) for _ in range(4)}
        assert len(found) == 2
        assert os.getpid() not in found
    for process in found:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_what_a_worker_fails_at_is_raised_where_the_batch_is_asked_for():
    with Loader(fail, 0, 3, 1) as loader, pytest.raises(ValueError, match="no batch 0"):
        loader.next()


CHILD = """
import multiprocessing, sys, time
import torch
from kbnet.data.loader import Loader

def batch(step):
    return torch.zeros(1), torch.zeros(1)

if __name__ == "__main__":
    loader = Loader(batch, 0, 1000, workers=1)
    loader.next()
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    package = str(Path(kbnet.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as child:
        worker = int(child.stdout.readline())
        os.kill(worker, 0)  # it is there
        child.kill()
        # Whoever is left over holds the pipe open.
        assert child.communicate(timeout=60) == ("", None)
    for _ in range(100):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"worker {worker} outlives its parent")
