"""How much memory is found, and that tiles stay within it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet.inference import memory, ram
from kbnet.inference.runners import ENGINE_BUDGET_BYTES
from kbnet.inference.runners.engine import EngineRunner
from kbnet.inference.runners.modules import TorchRunner
from kbnet.models import create_model
from kbnet.nn.checkpoint import weights_of
from kbnet.ops import native

MEBIBYTE = 2**20


def runner_of(preset, **settings):
    return TorchRunner(create_model(preset, **settings), "cpu", "float32")


RUNNERS = {
    "kbnet-s": runner_of("kbnet-nano", width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1), middle_blocks=1),
    "kbnet-l": runner_of("kbnet-l-derain", width=8, blocks=(1, 1, 1, 1), refinement_blocks=1),
}

no_deadline = settings(deadline=None)  # a busy machine is no failure


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(meminfo, left)`: a machine that says this of its memory, None for a missing file; a container's rest."""
    monkeypatch.setattr(ram, "Path", lambda path: tmp_path / path.strip("/"))

    def build(meminfo=None, left=None):
        monkeypatch.setattr(ram, "memory_left", lambda: left)
        if meminfo is not None:
            file = tmp_path / "proc" / "meminfo"
            file.parent.mkdir(exist_ok=True)
            file.write_text(meminfo)

    return build


MEMINFO = "MemTotal:       8000000 kB\nMemFree:         100000 kB\nMemAvailable:    500000 kB\nSwapFree: 0 kB\n"


@pytest.mark.parametrize(
    ("left", "available"), [(None, 500_000 * 1024), (200 * MEBIBYTE, 200 * MEBIBYTE), (10**12, 500_000 * 1024), (0, 0)]
)
def test_the_less_counts_of_what_the_system_has_and_what_a_container_is_left(machine, left, available):
    machine(MEMINFO, left)
    assert memory.available_bytes() == available


def test_a_system_without_meminfo_is_asked_for_its_free_pages(machine, monkeypatch):
    machine()
    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(ram.os, "sysconf_names", pages, raising=False)
    monkeypatch.setattr(ram.os, "sysconf", pages.get, raising=False)
    assert memory.available_bytes() == 1000 * 4096


@pytest.mark.parametrize("meminfo", [None, "", "MemTotal: 8000000 kB\n", "MemAvailable: plenty\n"])
def test_a_system_that_does_not_say_is_guessed_at_cautiously(machine, monkeypatch, meminfo):
    machine(meminfo)
    monkeypatch.delattr(ram.os, "sysconf", raising=False)
    assert memory.available_bytes() == 2 * 2**30
    ram.check_memory(10**6, 10**6, 10**15)  # a guess refuses nothing


@pytest.mark.parametrize("family", RUNNERS)
@no_deadline
@given(st.lists(st.integers(0, 4096 * MEBIBYTE), min_size=2, max_size=6).map(sorted))
def test_more_memory_never_means_smaller_tiles_and_tiles_stay_within_half_of_it(family, amounts):
    runner = RUNNERS[family]
    with pytest.MonkeyPatch.context() as patch:
        sides = []
        for amount in amounts:
            patch.setattr(memory, "available_bytes", lambda device, amount=amount: amount)
            sides.append(memory.auto_tile(runner))
    assert sides == sorted(sides)
    for amount, side in zip(amounts, sides, strict=True):
        assert side >= 128
        assert side % 64 == 0
        if side > 128:  # below that, tiles would be all overlap: it is tried whatever the memory
            assert side**2 * runner.bytes_per_pixel <= min(amount // 2, runner.budget_bytes)


def test_a_tile_is_the_largest_of_its_step_that_fits(monkeypatch):
    runner = RUNNERS["kbnet-s"]
    needed = 2 * 256**2 * runner.bytes_per_pixel
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    assert memory.auto_tile(runner) == 256
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 2)
    assert memory.auto_tile(runner) == 192


def test_buffers_of_the_image_leave_less_for_tiles(monkeypatch):
    runner = RUNNERS["kbnet-s"]
    pixel = runner.bytes_per_pixel
    tile, row = 256**2 * pixel, 12 * 30_000
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * (tile + 256 * row) + 1000)
    assert memory.auto_tile(runner) > 256
    assert memory.auto_tile(runner, buffers=1000, row=row) == 256
    assert memory.auto_tile(runner, buffers=1002, row=row) == 192
    assert memory.auto_tile(runner, buffers=10**15, row=row) == 128


@given(st.integers(0, 10**12), st.integers(1, 10**5), st.integers(0, 10**7))
def test_a_side_within_a_budget_is_the_largest(budget, pixel, row):
    side = memory.side_within(budget, pixel, row)
    assert side**2 * pixel + side * row <= budget < (side + 1) ** 2 * pixel + (side + 1) * row


def test_a_wider_network_gets_smaller_tiles(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**40)
    narrow, wide = (runner_of("kbnet-nano", width=w, encoder_blocks=(1,), decoder_blocks=(1,)) for w in (16, 64))
    assert 128 < memory.auto_tile(wide) < memory.auto_tile(narrow)


@pytest.mark.skipif(native.refuses_here() is not None, reason="needs the compiled kernels")
@pytest.mark.parametrize("family", RUNNERS)
def test_in_the_engine_tiles_may_take_as_much_more_as_the_weights(family, monkeypatch):
    monkeypatch.delenv("KBNET_FUSED", raising=False)
    modules = RUNNERS[family]
    engine = EngineRunner(weights_of(modules.network))
    assert engine.budget_bytes == modules.budget_bytes == ENGINE_BUDGET_BYTES + 4 * engine.weights.parameters
    assert engine.bytes_per_pixel == modules.bytes_per_pixel


@pytest.mark.skipif(native.refuses_here() is not None, reason="networks run layer by layer here anyway")
def test_layers_that_run_one_by_one_are_known_to_need_more(monkeypatch):
    runner = RUNNERS["kbnet-s"]
    monkeypatch.delenv("KBNET_FUSED", raising=False)
    as_one = runner.bytes_per_pixel
    monkeypatch.setenv("KBNET_FUSED", "off")
    assert runner.bytes_per_pixel > as_one
