"""How many threads a call uses, with PyTorch loaded and without."""

import os

import pytest
import torch

from kbnet.engine import threads


def test_pytorchs_number_counts_where_it_is_loaded(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert threads.default_threads() == torch.get_num_threads() == 1  # set by conftest.py


@pytest.mark.parametrize(
    ("wish", "expected"), [("3", 3), ("2,4", 2), (" 5 ", 5), ("0", None), ("many", None), ("", None)]
)
def test_the_variable_of_openmp_counts_without_it(monkeypatch, wish, expected):
    monkeypatch.setattr(threads, "sys", type("S", (), {"modules": {}}))
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    physical = threads.default_threads()
    assert physical == expected if expected else 1 <= physical <= len(threads.usable_cores())


def test_two_hardware_threads_of_a_core_count_once(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "sys", type("S", (), {"modules": {}}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    monkeypatch.setattr(threads, "usable_cores", lambda: {0, 1, 2, 3})
    assert threads.default_threads() == 4  # a system that doesn't say
    for core in range(4):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n", encoding="ascii")
    assert threads.default_threads() == 2


def test_a_limit_holds_for_this_process_and_those_it_starts(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    threads.limit_threads(1)
    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == ("1", 1)
