"""How much memory is found, and that tiles stay within it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet.inference import memory
from kbnet.models import create_model
from kbnet.ops import native

CPU = torch.device("cpu")
MEBIBYTE = 2**20
NETWORKS = {
    "kbnet-s": create_model("kbnet-nano", width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1), middle_blocks=1),
    "kbnet-l": create_model("kbnet-l-derain", width=8, blocks=(1, 1, 1, 1), refinement_blocks=1),
}

no_deadline = settings(deadline=None)  # a busy machine is no failure


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(meminfo, limit, used, stat)`: a machine that says this of its memory; None for a missing file."""
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.strip("/"))
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")

    def build(meminfo=None, limit=None, used=None, stat=None):
        container = {"cgroup/memory.max": limit, "cgroup/memory.current": used, "cgroup/memory.stat": stat}
        files = {"proc/meminfo": meminfo, **container}
        for name, text in files.items():
            if text is not None:
                file = tmp_path / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(text)

    return build


MEMINFO = "MemTotal:       8000000 kB\nMemFree:         100000 kB\nMemAvailable:    500000 kB\nSwapFree: 0 kB\n"


def test_without_a_container_it_is_what_the_system_calls_available(machine):
    machine(MEMINFO)
    assert memory.available_bytes(CPU) == 500_000 * 1024


def test_a_container_without_a_limit_changes_nothing(machine):
    machine(MEMINFO, limit="max\n", used="123456\n")
    assert memory.available_bytes(CPU) == 500_000 * 1024


def test_a_containers_limit_counts_where_it_is_lower(machine):
    machine(MEMINFO, limit=f"{300 * MEBIBYTE}\n", used=f"{100 * MEBIBYTE}\n")
    assert memory.available_bytes(CPU) == 200 * MEBIBYTE


def test_files_that_a_container_merely_keeps_in_memory_do_not_count_as_used(machine):
    stat = f"anon 5\ninactive_file {50 * MEBIBYTE}\nactive_file 7\n"
    machine(MEMINFO, limit=f"{300 * MEBIBYTE}\n", used=f"{100 * MEBIBYTE}\n", stat=stat)
    assert memory.available_bytes(CPU) == 250 * MEBIBYTE


def test_the_system_counts_where_the_containers_limit_is_higher(machine):
    machine(MEMINFO, limit=f"{10**12}\n", used="0\n")
    assert memory.available_bytes(CPU) == 500_000 * 1024


def test_a_container_over_its_limit_has_nothing_left(machine):
    machine(MEMINFO, limit="1000\n", used="2000\n")
    assert memory.available_bytes(CPU) == 0


@pytest.mark.parametrize(("limit", "used"), [("gibberish", "0"), ("1000", None), ("1000", "gibberish")])
def test_a_container_that_makes_no_sense_is_passed_over(machine, limit, used):
    machine(MEMINFO, limit=limit, used=used)
    assert memory.available_bytes(CPU) == 500_000 * 1024


def test_a_system_without_meminfo_is_asked_for_its_free_pages(machine, monkeypatch):
    machine()
    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf_names", pages, raising=False)
    monkeypatch.setattr(memory.os, "sysconf", pages.get, raising=False)
    assert memory.available_bytes(CPU) == 1000 * 4096


@pytest.mark.parametrize("meminfo", [None, "", "MemTotal: 8000000 kB\n", "MemAvailable: plenty\n"])
def test_a_system_that_does_not_say_is_guessed_at_cautiously(machine, monkeypatch, meminfo):
    machine(meminfo)
    monkeypatch.delattr(memory.os, "sysconf", raising=False)
    assert memory.available_bytes(CPU) == 2 * 2**30


@pytest.mark.parametrize("family", NETWORKS)
@no_deadline
@given(st.lists(st.integers(0, 4096 * MEBIBYTE), min_size=2, max_size=6).map(sorted))
def test_more_memory_never_means_smaller_tiles_and_tiles_stay_within_half_of_it(family, amounts):
    network = NETWORKS[family]
    with pytest.MonkeyPatch.context() as patch:
        sides = []
        for amount in amounts:
            patch.setattr(memory, "available_bytes", lambda device, amount=amount: amount)
            sides.append(memory.auto_tile(network, CPU))
    assert sides == sorted(sides)
    for amount, side in zip(amounts, sides, strict=True):
        assert side >= 128
        assert side % 64 == 0
        if side > 128:  # below that, tiles would be all overlap: it is tried whatever the memory
            assert side**2 * memory.bytes_per_pixel(network, CPU) <= min(amount // 2, memory.BUDGET_BYTES)


def test_a_tile_is_the_largest_of_its_step_that_fits(monkeypatch):
    network = NETWORKS["kbnet-s"]
    needed = 2 * 256**2 * memory.bytes_per_pixel(network, CPU)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    assert memory.auto_tile(network, CPU) == 256
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 2)
    assert memory.auto_tile(network, CPU) == 192


def test_a_wider_network_gets_smaller_tiles(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**40)
    narrow, wide = (create_model("kbnet-nano", width=w, encoder_blocks=(1,), decoder_blocks=(1,)) for w in (16, 64))
    assert 128 < memory.auto_tile(wide, CPU) < memory.auto_tile(narrow, CPU)


@pytest.mark.skipif(native.refuses_here() is not None, reason="blocks run layer by layer here anyway")
def test_layers_that_run_one_by_one_are_known_to_need_more(monkeypatch):
    network = NETWORKS["kbnet-s"]
    monkeypatch.delenv("KBNET_FUSED", raising=False)
    as_one = memory.bytes_per_pixel(network, CPU)
    monkeypatch.setenv("KBNET_FUSED", "off")
    assert memory.bytes_per_pixel(network, CPU) > as_one
